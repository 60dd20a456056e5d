"""What `make docs` needs beside mkdocs: pages made from the parser and from files outside of docs/."""
