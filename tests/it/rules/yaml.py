"""Prints the YAML files that its arguments name as one JSON array."""

import json
import sys

import yaml

print(json.dumps([yaml.safe_load(open(path, encoding="utf-8")) for path in sys.argv[1:]]))
