"""Every policy of the library against doing nothing and against the best fixed setting."""
