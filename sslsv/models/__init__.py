"""Training methods, one a file; `sslsv.registry` finds them by the file's name."""
