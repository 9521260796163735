"""A regular package, because `sippy` installs one of the same name: a namespace package would lose against it."""
