"""The little of JSON schema that a space uses, read strictly."""

KINDS = {"string": str, "integer": int, "number": (int, float)}


def accepts(schema, value):
    """Whether a value satisfies the schema of an object of enumerated members."""
    assert set(schema) == {"type", "properties", "required", "additionalProperties"}
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    if not isinstance(value, dict) or not set(schema["required"]) <= set(value) <= set(schema["properties"]):
        return False
    return all(_accepts_member(schema["properties"][name], member) for name, member in value.items())


def _accepts_member(schema, value):
    assert set(schema) == {"type", "enum", "description"}
    if isinstance(value, bool) or not isinstance(value, KINDS[schema["type"]]):
        return False
    return value in schema["enum"]
