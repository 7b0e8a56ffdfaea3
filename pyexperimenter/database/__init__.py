"""All that is said to a database: dialects, connections, tables, and every statement."""
