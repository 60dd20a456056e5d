def write(f):
    pass
