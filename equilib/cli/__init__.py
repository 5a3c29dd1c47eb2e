"""The command ``equilib``: its options, and what each of its commands does.  :mod:`equilib.__main__` starts it."""
