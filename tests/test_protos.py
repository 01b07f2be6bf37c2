"""The generated code is what the protos say, and the protos keep the rules of protos/README.md."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

ROOT = Path(__file__).parents[1]
PROTOS = sorted(path.relative_to(ROOT / "protos") for path in (ROOT / "protos").rglob("*.proto"))
PASCAL = re.compile(r"([A-Z][a-z0-9]*)+\Z|[A-Z]+([A-Z][a-z0-9]*)+\Z")
PLUGINS = ("mypy", "mypy_grpc")
SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\Z")


def protoc(*options: str) -> None:
    plugins = [f"--plugin=protoc-gen-{name}={Path(sys.executable).parent}/protoc-gen-{name}" for name in PLUGINS]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "protos", *plugins, *options, *map(str, PROTOS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    warnings = [line for line in done.stderr.splitlines() if not line.startswith("Writing ")]
    assert (done.returncode, warnings) == (0, [])


def test_committed_stubs_are_what_the_protos_generate(tmp_path):
    protoc(*(f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", *PLUGINS)))
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.py*")}
    here = ROOT / "worldkv" / "v1"
    committed = {path.relative_to(ROOT): path.read_bytes() for path in here.glob("*_pb2*.py*")}
    assert fresh.keys() == committed.keys(), "run `make protos`"
    assert [str(path) for path in fresh if fresh[path] != committed[path]] == [], "run `make protos`"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[FileDescriptorProto]:
    out = tmp_path_factory.mktemp("protos") / "set"
    protoc(f"--descriptor_set_out={out}", "--include_source_info")
    return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def messages(file: FileDescriptorProto) -> Iterator[DescriptorProto]:
    for message in file.message_type:
        yield message
        yield from message.nested_type


def enums(file: FileDescriptorProto) -> Iterator[EnumDescriptorProto]:
    yield from file.enum_type
    for message in messages(file):
        yield from message.enum_type


def services(files: list[FileDescriptorProto]) -> list[ServiceDescriptorProto]:
    return [service for file in files for service in file.service]


def test_packages_mirror_folders(files):
    for file in files:
        assert file.package == str(Path(file.name).parent).replace("/", ".")
        assert re.search(r"\.v\d+\Z", file.package)
        assert SNAKE.match(Path(file.name).stem)
        assert file.syntax == "proto3"


def test_names_have_the_usual_shape(files):
    for file in files:
        for message in messages(file):
            assert PASCAL.match(message.name), message.name
            for name in [field.name for field in message.field] + [one.name for one in message.oneof_decl]:
                assert SNAKE.match(name.removeprefix("_")), f"{message.name}.{name}"


def test_enums_begin_unspecified_and_carry_their_name(files):
    for enum in (enum for file in files for enum in enums(file)):
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
        assert (enum.value[0].number, enum.value[0].name) == (0, prefix + "UNSPECIFIED")
        assert all(value.name.startswith(prefix) for value in enum.value)
        assert len({value.number for value in enum.value}) == len(enum.value)


def test_every_call_has_a_request_and_a_response_of_its_own(files):
    used: list[str] = []
    for service in services(files):
        assert PASCAL.match(service.name)
        assert not service.name.endswith("Service")
        for call in service.method:
            for given, end in ((call.input_type, "Request"), (call.output_type, "Response")):
                name = given.rpartition(".")[2]
                assert name in (call.name + end, service.name + call.name + end)
                used.append(name)
    assert len(used) == len(set(used))


def test_everything_is_explained(files):
    for file in files:
        explained = {tuple(l.path) for l in file.source_code_info.location if l.leading_comments.strip()}  # noqa: E741
        assert [path for path in _explicable(file) if path not in explained] == [], file.name


def _explicable(file: FileDescriptorProto) -> Iterator[tuple[int, ...]]:
    """Paths, as in source code info, of all that needs a comment; none of our messages nest but maps."""
    for i, message in enumerate(file.message_type):
        assert all(each.options.map_entry for each in message.nested_type), message.name
        yield (4, i)
        yield from ((4, i, 2, j) for j in range(len(message.field)))
        yield from ((4, i, 8, j) for j, one in enumerate(message.oneof_decl) if not one.name.startswith("_"))
    for i, enum in enumerate(file.enum_type):
        yield (5, i)
        yield from ((5, i, 2, j) for j in range(len(enum.value)))
    for i, service in enumerate(file.service):
        yield (6, i)
        yield from ((6, i, 2, j) for j in range(len(service.method)))


def test_payloads_stand_last(files):
    """A payload is `data` or `values`: it follows whatever says what it is, so a reader can take it as a view."""
    for message in (message for file in files for message in messages(file)):
        numbers = {field.name: field.number for field in message.field}
        for name in {"data", "values"} & numbers.keys():
            assert numbers[name] == max(numbers.values()), message.name
