"""Pages made from the files of run folders."""
