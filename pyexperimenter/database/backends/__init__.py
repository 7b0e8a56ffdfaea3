"""The databases, each with its dialect and its driver."""
