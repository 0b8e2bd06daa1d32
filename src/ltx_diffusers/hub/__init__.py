"""Models as they lie on disk and on the Hub: finding them, and telling what is in them without loading weights."""
