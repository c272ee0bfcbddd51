"""Everything that one or several machines need, in one file: for networks that reach no package source."""
