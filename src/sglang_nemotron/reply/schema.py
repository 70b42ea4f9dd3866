"""What a tool's JSON schema says about its parameters: declared tools come in, checked; a parameter's text goes out as
a JSON literal of the declared type. Knows nothing of tags, streams or SGLang.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from json.encoder import encode_basestring
from typing import Any, Final

from .markup import MAX_NAME

JSON_TYPES: Final = ("string", "integer", "number", "boolean", "array", "object", "null")
ANY: Final = frozenset(JSON_TYPES)
# names that are no JSON schema types but common in tools; SGLang's server rewrites these and more before we see them
ALIASES: Final = {
    "str": "string",
    "text": "string",
    "varchar": "string",
    "enum": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "dict": "object",
    "map": "object",
}

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_LOOSE_NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([eE][+-]?[0-9]+)?", re.ASCII)
_SCALAR_PREFIX = re.compile(r"-?[0-9][0-9.eE+-]*|-", re.ASCII)
# longer numerals are kept as strings: common JSON readers refuse them (Python's stops at 4300 digits)
_MAX_NUMERAL: Final = 1000
# longest text that is also tried as a Python literal
_MAX_PYTHON: Final = 65536


@dataclass(frozen=True)
class ToolSpec:
    """One declared tool: its name and the JSON schema of its parameters (None: it declares none)."""

    name: str
    parameters: Mapping[str, Any] | None = None

    @cached_property
    def types(self) -> tuple[dict[str, ValueType], ValueType]:
        """The types of the declared parameters by name, and the type of any other name (`parameter_types`)."""
        return parameter_types(self.parameters)


@dataclass(frozen=True)
class ValueType:
    """The JSON types that a parameter's schema allows, and its enumerated values (None: not enumerated)."""

    types: frozenset[str]
    members: tuple[Any, ...] | None = None

    @property
    def streams(self) -> bool:
        """Whether any text at all is a value of this type as it stands, so that it can be passed on as it comes."""
        return self.types == _STRING_ONLY and all(isinstance(member, str) for member in self.members or ())

    def undecided(self, text: str) -> bool:
        """Whether a value that begins like this may still turn out to be something else than a string."""
        if self.waits(text):
            return True
        if len(text) > _MAX_NUMERAL:
            return False
        words = [word for word, kind in _WORDS.items() if kind in self.types]
        numeral = not self.types.isdisjoint(("integer", "number")) and _SCALAR_PREFIX.fullmatch(text)
        return bool(numeral) or text.isspace() or any(word.startswith(text) for word in words)

    def waits(self, text: str) -> bool:
        """Whether a value that begins like this stays undecided until its end, whatever comes next."""
        if "string" not in self.types or self.members is not None:
            return True
        bracket = "" if self.types.isdisjoint(("array", "object")) else text[: _MAX_NUMERAL + 1].lstrip()[:1]
        return bracket in ("[", "{")


_STRING_ONLY: Final = frozenset(("string",))
_WORDS: Final = {"null": "null", "true": "boolean", "false": "boolean"}
STRING: Final = ValueType(_STRING_ONLY)


def literal(text: str, wanted: ValueType) -> str | None:
    """The JSON literal for a parameter's text, or None if the text is no value of the wanted type.

    Where a string is allowed too, only exact JSON (`12`, `true`, `null`, `{...}`) is taken for something else. Where
    it is not, surrounding space, `True`, `None`, `+1`, `.5` and Python's spelling of lists and dicts are accepted.
    """
    if wanted.members is not None:
        found = _member(text, wanted.members)
        if found is not None:
            return found
    if wanted.types == _STRING_ONLY:
        return encode_basestring(text)
    strict = "string" in wanted.types
    bare = text if strict else text.strip()
    found = _word(bare, wanted.types, strict) or _numeral(bare, wanted.types, strict) or _container(bare, wanted.types)
    if found is None and strict:
        return encode_basestring(text)
    return found


def as_json(text: str, wanted: ValueType) -> str:
    """The JSON literal for a parameter's text; text that is no value of the wanted type stays a string, unaltered."""
    found = literal(text, wanted)
    return encode_basestring(text) if found is None else found


def _member(text: str, members: tuple[Any, ...]) -> str | None:
    if text in [member for member in members if isinstance(member, str)]:
        return encode_basestring(text)
    for member in members:
        if not isinstance(member, str) and json.dumps(member) == text.strip():
            return json.dumps(member)
    return None


def _word(text: str, types: frozenset[str], strict: bool) -> str | None:
    if "null" in types and (text == "null" or (not strict and text == "None")):
        return "null"
    if "boolean" in types:
        lowered = text if strict else text.lower()
        if lowered in ("true", "false"):
            return lowered
    return None


def _numeral(text: str, types: frozenset[str], strict: bool) -> str | None:
    if len(text) > _MAX_NUMERAL or types.isdisjoint(("integer", "number")):
        return None
    if strict and "number" not in types:
        return text if _INTEGER.fullmatch(text) else None
    if not strict:
        loose = _LOOSE_NUMBER.fullmatch(text)
        if loose is None or not (loose[2] or loose[3]):
            return None
        sign = "-" if loose[1] == "-" else ""
        fraction = f".{loose[3]}" if loose[3] else ""
        text = f"{sign}{(loose[2] or '').lstrip('0') or '0'}{fraction}{loose[4] or ''}"
        if "number" not in types and fraction and not loose[4] and not loose[3].strip("0"):
            text = text.partition(".")[0]
    return text if _NUMBER.fullmatch(text) else None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _container(text: str, types: frozenset[str]) -> str | None:
    if types.isdisjoint(("array", "object")) or not text.lstrip().startswith(("[", "{")):
        return None
    try:
        # what is JSON already goes through as it is: number spellings, key order, repeated keys
        json.loads(text, parse_constant=_refuse_constant)
        return text.strip()
    except (ValueError, RecursionError):
        pass
    try:
        # raw newlines inside its strings
        return json.dumps(json.loads(text, strict=False, parse_constant=_refuse_constant), ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    if len(text) > _MAX_PYTHON:
        return None
    try:
        value = ast.literal_eval(text.strip())
        return json.dumps(value, ensure_ascii=False, allow_nan=False) if isinstance(value, (list, dict)) else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def parameter_types(parameters: Mapping[str, Any] | None) -> tuple[dict[str, ValueType], ValueType]:
    """The types of the declared parameters by name, and the type of any other name.

    Properties are looked up through `$ref`, `allOf`, `anyOf` and `oneOf` of the schema itself. A name that is not
    declared is a string, unless `additionalProperties` gives its schema.
    """
    root = parameters if isinstance(parameters, Mapping) else {}
    found: dict[str, ValueType] = {}
    other = STRING
    pending: list[Any] = [root]
    seen: set[int] = set()
    while pending:
        schema = pending.pop(0)
        if not isinstance(schema, Mapping) or id(schema) in seen:
            continue
        seen.add(id(schema))
        properties = schema.get("properties")
        for name, sub in properties.items() if isinstance(properties, Mapping) else ():
            found.setdefault(name, value_type(sub, root))
        if isinstance(schema.get("additionalProperties"), Mapping):
            other = value_type(schema["additionalProperties"], root)
        if isinstance(schema.get("$ref"), str):
            pending.append(_resolve(schema["$ref"], root))
        for keyword in ("allOf", "anyOf", "oneOf"):
            branches = schema.get(keyword)
            pending.extend(branches if isinstance(branches, Sequence) else ())
    return found, other


def value_type(schema: Any, root: Mapping[str, Any]) -> ValueType:
    """What one parameter's schema allows; references are local to `root`. A schema that says nothing allows all."""
    return _value_type(schema, root, ())


def _value_type(schema: Any, root: Mapping[str, Any], path: tuple[int, ...]) -> ValueType:
    if not isinstance(schema, Mapping) or id(schema) in path or len(path) > 32:
        return ValueType(ANY)
    path = (*path, id(schema))
    types, members = ANY, None
    if isinstance(schema.get("$ref"), str):
        target = _value_type(_resolve(schema["$ref"], root), root, path)
        types, members = target.types, target.members
    declared = schema.get("type")
    if declared is not None:
        names = [declared] if isinstance(declared, str) else declared if isinstance(declared, Sequence) else []
        types = types & frozenset(_type_name(name) for name in names if isinstance(name, str)) or types
    listed = schema.get("enum") if isinstance(schema.get("enum"), list) else None
    if "const" in schema:
        listed = [schema["const"]]
    if listed:
        members = tuple(listed)
        types = types & frozenset(map(_type_of, members)) or types
    for keyword in ("anyOf", "oneOf"):
        if isinstance(schema.get(keyword), list) and schema[keyword]:
            branches = [_value_type(branch, root, path) for branch in schema[keyword]]
            types = types & frozenset().union(*(branch.types for branch in branches)) or types
            members = members or _joined_members(branches)
    all_of = schema.get("allOf")
    for branch in all_of if isinstance(all_of, list) else []:
        part = _value_type(branch, root, path)
        types, members = types & part.types or types, members or part.members
    if types == ANY:
        types = _implied(schema)
    if schema.get("nullable") is True:
        types = types | {"null"}
    return ValueType(types, members)


def _joined_members(branches: list[ValueType]) -> tuple[Any, ...] | None:
    """All enumerated values, if every branch enumerates its own; a plain null counts as enumerated."""
    members: list[Any] = []
    for branch in branches:
        if branch.members is None and branch.types != {"null"}:
            return None
        members.extend(branch.members or (None,))
    return tuple(members)


def _implied(schema: Mapping[str, Any]) -> frozenset[str]:
    """The type that a schema without `type` must mean by its other keywords."""
    for keywords, name in (
        (("properties", "patternProperties", "additionalProperties", "required"), "object"),
        (("items", "prefixItems", "minItems", "maxItems"), "array"),
        (("pattern", "minLength", "maxLength", "format"), "string"),
        (("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
    ):
        if any(keyword in schema for keyword in keywords):
            return frozenset((name,))
    return ANY


def _type_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    kinds = ((str, "string"), (int, "integer"), (float, "number"), (list, "array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")


def _type_name(name: str) -> str:
    bare = name.partition("(")[0].strip().lower()
    return name if name in ANY else ALIASES.get(bare, bare)


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    """The schema that a local reference names (RFC 6901), or None."""
    if not reference.startswith("#"):
        return None
    target: Any = root
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and key in target:
            target = target[key]
        elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
            target = target[int(key)]
        else:
            return None
    return target


def check_tools(tools: Sequence[Mapping[str, Any] | ToolSpec]) -> tuple[ToolSpec, ...]:
    """Check the tools of a request (OpenAI's form, with or without its outer `function`) and read them.

    Call it behind SGLang's own rewriting of type names. Raises ValueError that names the tool, the place and the value:
    a name that is missing, empty, too long, unfit for a tag or given twice; parameters that are no JSON schema.
    """
    specs: dict[str, ToolSpec] = {}
    for position, tool in enumerate(tools):
        if isinstance(tool, ToolSpec):
            spec = tool
        elif isinstance(tool, Mapping):
            function = tool.get("function", tool)
            if not isinstance(function, Mapping):
                raise ValueError(f"tools[{position}].function is {function!r}; it must be an object with a name")
            spec = ToolSpec(function.get("name", ""), function.get("parameters"))
        else:
            raise ValueError(f"tools[{position}] is {tool!r}; it must be an object with a name and parameters")
        name = spec.name
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= MAX_NAME
            or not name.isprintable()
            or set(name) & set("<> ")
        ):
            raise ValueError(
                f"tools[{position}] has the name {name!r}; a tool's name is 1 to {MAX_NAME} printable characters "
                "without '<', '>' or space"
            )
        if name in specs:
            raise ValueError(f"the tool name {name!r} is declared twice (tools[{position}]); names must be unique")
        if spec.parameters is not None:
            _check_schema(spec.parameters, f"the parameters of tool {name!r}")
        specs[name] = spec
    return tuple(specs.values())


_LISTS_OF_SCHEMAS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS_OF_SCHEMAS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMAS: Final = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def _check_schema(root: Any, where: str) -> None:
    if not isinstance(root, Mapping):
        raise ValueError(f"{where} are {root!r}; they must be a JSON schema object")
    pending: list[tuple[Any, str]] = [(root, where)]
    while pending:
        schema, place = pending.pop()
        if isinstance(schema, bool):
            continue
        if not isinstance(schema, Mapping):
            raise ValueError(f"{place}: {schema!r} is no JSON schema; it must be an object, true or false")
        _check_keywords(schema, place, root)
        for keyword in _LISTS_OF_SCHEMAS:
            for index, sub in enumerate(schema.get(keyword, ())):
                pending.append((sub, _inside(place, f"{keyword}[{index}]")))
        for keyword in _MAPS_OF_SCHEMAS:
            for name, sub in schema.get(keyword, {}).items():
                pending.append((sub, _inside(place, f"{keyword}.{name}")))
        for keyword in _SCHEMAS:
            # a list of items is the older spelling of prefixItems
            subs = schema[keyword] if isinstance(schema.get(keyword), list) else [schema.get(keyword, True)]
            pending.extend((sub, _inside(place, keyword)) for sub in subs)


def _inside(place: str, step: str) -> str:
    # a place is named as far as a reader would follow it
    return place if len(place) > 300 else f"{place}, {step}"


def _check_keywords(schema: Mapping[str, Any], place: str, root: Mapping[str, Any]) -> None:
    """Check the keywords of one schema that decide how values are read, and the shape of those that hold schemas."""
    declared = schema.get("type", [])
    for name in [declared] if isinstance(declared, str) else declared if isinstance(declared, list) else [declared]:
        if not isinstance(name, str) or _type_name(name) not in ANY:
            raise ValueError(f"{place}: the type {name!r} is unknown; allowed are {', '.join(JSON_TYPES)}")
    for keyword in _LISTS_OF_SCHEMAS:
        if keyword in schema and (not isinstance(schema[keyword], list) or not schema[keyword]):
            raise ValueError(f"{place}: {keyword} is {schema[keyword]!r}; it must be a list of schemas, not empty")
    for keyword in _MAPS_OF_SCHEMAS:
        if not isinstance(schema.get(keyword, {}), Mapping):
            raise ValueError(f"{place}: {keyword} is {schema[keyword]!r}; it must be an object of schemas")
    if not isinstance(schema.get("enum", []), list):
        raise ValueError(f"{place}: enum is {schema['enum']!r}; it must be a list")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise ValueError(f"{place}: required is {required!r}; it must be a list of names")
    if "$ref" in schema:
        reference = schema["$ref"]
        if not isinstance(reference, str) or _resolve(reference, root) is None:
            raise ValueError(
                f"{place}: $ref {reference!r} names nothing in this schema; only references inside it are allowed "
                "(such as '#/$defs/NAME')"
            )
