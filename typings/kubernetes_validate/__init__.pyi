# Of it only the place of its schemas is used.
