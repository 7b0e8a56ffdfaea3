"""Reading a study: its status, experiments, errors and progress. Also the files that a new study starts from."""
