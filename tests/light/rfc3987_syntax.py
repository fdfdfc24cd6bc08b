"""In the place of a package that jsonschema takes where it is, to check addresses in other alphabets.

Importing the real one compiles 38 grammars, for three seconds in every process that reads or writes a
notebook. jsonschema does without it, and nothing here has such an address.
"""

raise ImportError('left out of the tests: it takes three seconds to import')
