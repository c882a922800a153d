"""Make HTML reports from the files of run folders."""
