"""Whatever anybody sends: each parser gives a valid reading or says in its own words that it cannot.

`parsers` is the table, `mutations` spoils what was recorded, `python -m tests.fuzz` does it a million times.
What once broke something is kept under `corpus/`, and tried with every `make test`.
"""
