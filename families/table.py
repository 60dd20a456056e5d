def write(f): pass
