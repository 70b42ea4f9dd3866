"""Every stable SGLang name this package uses, re-exported and split by the process that pays for the import."""
