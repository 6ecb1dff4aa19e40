"""A finished run comes in; what recognises signs without torch goes out, and is used."""
