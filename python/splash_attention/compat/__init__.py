"""Functions with the names, arguments and defaults of other libraries, to move code over without changes."""
