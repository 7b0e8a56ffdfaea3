"""The domains of the keyfields, multiplied to rows. Pure: no database, no clock, no environment."""
