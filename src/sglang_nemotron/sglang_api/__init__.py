"""SGLang's names that this package uses, split by the process that pays for the import, and what a release has of them.

The ground floor: imports nothing else of this package.
"""
