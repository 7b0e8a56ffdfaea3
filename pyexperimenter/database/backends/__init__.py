"""The databases: each with its SQL dialect and its driver."""
