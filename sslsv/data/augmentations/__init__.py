"""What makes two views of one recording sound as if recorded in different places; one file each."""
