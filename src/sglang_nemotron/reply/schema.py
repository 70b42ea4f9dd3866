"""What a tool's JSON schema says about its parameters: declared tools come in, checked; the JSON types of each
parameter go out. Knows nothing of tags, streams or SGLang.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from .markup import MAX_NAME
from .values import ANY, STRING, ValueType

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


# schemas that are looked at for the types of one tool's parameters
MOST_STEPS: Final = 20_000


@dataclass(frozen=True)
class ToolSpec:
    """One declared tool: its name and the JSON schema of its parameters (None: it declares none)."""

    name: str
    parameters: Mapping[str, Any] | None = None

    @cached_property
    def types(self) -> tuple[dict[str, ValueType], ValueType]:
        """The types of the declared parameters by name, and the type of any other name (`parameter_types`)."""
        return parameter_types(self.parameters)


def parameter_types(parameters: Mapping[str, Any] | None) -> tuple[dict[str, ValueType], ValueType]:
    """The types of the declared parameters by name, and the type of any other name.

    Properties are looked up through `$ref`, `allOf`, `anyOf` and `oneOf` of the schema itself. A name that is not
    declared is a string, unless `additionalProperties` gives its schema.
    """
    root = parameters if isinstance(parameters, Mapping) else {}
    found: dict[str, ValueType] = {}
    other = STRING
    walk = _Walk(root)
    pending: list[Any] = [root]
    seen: set[int] = set()
    while pending:
        schema = pending.pop(0)
        if not isinstance(schema, Mapping) or id(schema) in seen:
            continue
        seen.add(id(schema))
        properties = schema.get("properties")
        for name, sub in properties.items() if isinstance(properties, Mapping) else ():
            if name not in found:
                found[name] = _value_type(sub, walk, ())
        if isinstance(schema.get("additionalProperties"), Mapping):
            other = _value_type(schema["additionalProperties"], walk, ())
        if isinstance(schema.get("$ref"), str):
            pending.append(_resolve(schema["$ref"], root))
        for keyword in ("allOf", "anyOf", "oneOf"):
            branches = schema.get(keyword)
            pending.extend(branches if isinstance(branches, Sequence) else ())
    return found, other


class _Walk:
    """One look at the schemas of a tool. Those that branch and refer to each other have more paths than atoms: beyond
    MOST_STEPS, what was not looked at allows all."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.left = MOST_STEPS

    def may_enter(self, schema: Any, path: tuple[int, ...]) -> bool:
        self.left -= 1
        return isinstance(schema, Mapping) and id(schema) not in path and len(path) <= 32 and self.left >= 0


def value_type(schema: Any, root: Mapping[str, Any]) -> ValueType:
    """What one parameter's schema allows; references are local to `root`. A schema that says nothing allows all."""
    return _value_type(schema, _Walk(root), ())


def _value_type(schema: Any, walk: _Walk, path: tuple[int, ...]) -> ValueType:
    if not walk.may_enter(schema, path):
        return ValueType(ANY)
    path = (*path, id(schema))
    types, members = ANY, None
    if isinstance(schema.get("$ref"), str):
        target = _value_type(_resolve(schema["$ref"], walk.root), walk, path)
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
            branches = [_value_type(branch, walk, path) for branch in schema[keyword]]
            types = types & frozenset().union(*(branch.types for branch in branches)) or types
            members = members or _joined_members(branches)
    all_of = schema.get("allOf")
    for branch in all_of if isinstance(all_of, list) else []:
        part = _value_type(branch, walk, path)
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

    Raises ValueError that names the tool, the place and the value: a name that is missing, empty, too long, unfit for a
    tag or given twice; parameters that are no object, or refer to what is not in them. `check_schema` asks the rest.
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
            where = f"the parameters of tool {name!r}"
            if not isinstance(spec.parameters, Mapping):
                raise ValueError(f"{where} are {spec.parameters!r}; they must be a JSON schema object")
            _check_references(spec.parameters, where)
        specs[name] = spec
    return tuple(specs.values())


def check_schema(parameters: Mapping[str, Any], where: str) -> None:
    """ValueError, naming place and value, for what is no JSON schema of draft 2020-12.

    SGLang asks the same of a chat's tools before we see them, which takes 1 to 4 ms a tool (two to ten parameters); so
    `check_tools` does not ask again.
    """
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        # a value may be as long as the whole schema
        raise ValueError(f"{where}, at {error.json_path[:300]}: {error.message[:300]}") from None
    except RecursionError:
        raise ValueError(f"{where} are nested too deeply; simplify the schema") from None


_LISTS_OF_SCHEMAS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS_OF_SCHEMAS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMAS: Final = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def _check_references(root: Mapping[str, Any], where: str) -> None:
    """Whether each `$ref` leads to a schema of these parameters, of which validity says nothing."""
    pending: list[tuple[Any, str]] = [(root, where)]
    while pending:
        schema, place = pending.pop()
        if not isinstance(schema, Mapping):
            continue
        if "$ref" in schema:
            reference = schema["$ref"]
            if not isinstance(reference, str) or _resolve(reference, root) is None:
                raise ValueError(
                    f"{place}: $ref {reference!r} names nothing in this schema; only references inside it are allowed "
                    "(such as '#/$defs/NAME')"
                )
        for keyword in (*_SCHEMAS, *_LISTS_OF_SCHEMAS):
            subs = schema.get(keyword)
            # a list of items is the older spelling of prefixItems
            pending.extend((sub, _inside(place, keyword)) for sub in (subs if isinstance(subs, list) else [subs]))
        for keyword in _MAPS_OF_SCHEMAS:
            subs = schema.get(keyword)
            named = subs.items() if isinstance(subs, Mapping) else ()
            pending.extend((sub, _inside(place, f"{keyword}.{name}")) for name, sub in named)


def _inside(place: str, step: str) -> str:
    # a place is named as far as a reader would follow it
    return place if len(place) > 300 else f"{place}, {step}"
