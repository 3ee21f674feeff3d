"""Checks that a description is valid OpenAPI, and that exchanges are as it says.

usage: openapi.py DESCRIPTION EXCHANGES

Both are JSON; an exchange has method, path (the template), status, asked and told (JSON, null if
there was none).
"""

import json
import sys

from jsonschema import Draft202012Validator
from openapi_spec_validator import validate


def mistakes(description, schema, value):
    if schema is True:
        return []
    # The references in the schema begin at the root of the description.
    whole = {**description, **schema, "unevaluatedProperties": False}
    return [error.message for error in Draft202012Validator(whole).iter_errors(value)]


def check(description, exchange):
    operation = description["paths"][exchange["path"]][exchange["method"].lower()]
    found = []
    if exchange["asked"] is not None and exchange["status"] < 300:
        content = operation["requestBody"]["content"]["application/json"]
        found += mistakes(description, content["schema"], exchange["asked"])
    answer = operation["responses"].get(str(exchange["status"]))
    if answer is None:
        return found + ["the status is not described"]
    if exchange["told"] is not None:
        content = answer["content"]["application/json"]
        found += mistakes(description, content["schema"], exchange["told"])
    elif "application/json" in answer.get("content", {}):
        found.append("there is no JSON")
    return found


with open(sys.argv[1]) as file:
    description = json.load(file)
with open(sys.argv[2]) as file:
    exchanges = json.load(file)

validate(description)
failed = False
for exchange in exchanges:
    for mistake in check(description, exchange):
        failed = True
        print(exchange["method"], exchange["path"], exchange["status"], mistake[:500])
sys.exit(failed)
