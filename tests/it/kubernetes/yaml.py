"""Prints the YAML documents of its input as one JSON array."""

import json
import sys

import yaml

print(json.dumps([document for document in yaml.safe_load_all(sys.stdin) if document]))
