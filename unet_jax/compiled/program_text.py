"""What the text of a compiled program says of its kernels: where they come from, what they move, how long they take.

A TPU's compiler writes its own estimate, in cycles, behind nearly every instruction: behind gathers it writes none. A
GPU's writes none at all. There the bytes of a kernel over the memory's bandwidth bound its time from below.
"""
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 'f32': 4, 's32': 4, 'u32': 4, 's64': 8,
         'u64': 8, 'f64': 8}
ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?')
INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?([\w.\-]+) = (\((?:[^()]|\([^()]*\))*\)|\S+) ([a-z][a-z\-]*)\((.*)$')
FREE = ('parameter', 'constant', 'get-tuple-element', 'bitcast', 'tuple', 'after-all', 'partition-id', 'replica-id',
        'opt-barrier')
INSIDE = ('while', 'body', 'checkpoint', 'rematted_computation', 'closed_call', 'UNet')
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'collective-permute', 'all-to-all')


class Kernel(NamedTuple):
    """One instruction that the device executes, `times` times a program."""
    op: str
    place: str  # 'forward encoder_0_block_1/first/conv'
    bytes: int  # read from and written to the device's memory, all times together
    cycles: int  # the compiler's estimate, all times together; 0 where it gives none
    times: int


def size(shape: str, *, everywhere: bool = False) -> int:
    """Bytes of all arrays in a shape as the text has it, as they lie in memory: filled up to the tiles of a TPU. What
    lies in its fast memory, S(1), counts only if `everywhere`."""
    total = 0
    for kind, sides, order, layout in ARRAY.findall(shape):
        if kind not in BYTES or 'S(1)' in layout and not everywhere:
            continue
        lengths = [int(n) for n in sides.split(',') if n]
        tile = re.match(r'T\((\d+),(\d+)\)', layout)
        if tile and len(lengths) > 1:
            for axis, multiple in zip(map(int, order.split(',')), (int(tile[2]), int(tile[1])), strict=False):
                lengths[axis] = -(-lengths[axis] // multiple) * multiple
        total += math.prod(lengths) * BYTES[kind]
    return total


def place(label: str) -> str:
    """Which part of the step an op_name belongs to, and the layer: 'backward decoder_0_block_0/first/norm'."""
    # what jax writes around names, as jit(…) and UNet.blocks, says nothing; the last is the operation
    names = [name for name in label.split('/')[:-1] if re.fullmatch(r'\w+', name) and name not in INSIDE]
    layer = '/'.join(names)
    between = label.rpartition('/')[2]  # an operation between the layers, such as concatenate
    if 'jvp(' in label:
        way = 'backward' if 'transpose(jvp' in label else 'forward'
        return f'{way} {layer or (between if "jvp(UNet" in label else "loss")}'
    if 'UNet' in label:
        return f'forward {layer or between}'
    return 'augmentation' if 'vmap' in label else 'optimiser and the rest'


def kernels(text: str) -> list[Kernel]:
    """Every instruction of the program that costs anything; those of loops as often as the loop runs."""
    bodies, entry = computations(text)
    return list(walk(bodies, entry, 1))


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """({name of a computation: its lines}, the name of the one that the program begins with)."""
    bodies, name, entry = {}, '', ''
    for line in text.splitlines():
        head = re.match(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$', line)
        if head:
            name = head[2]
            bodies[name], entry = [], name if head[1] else entry
        elif name and line.startswith(' '):
            bodies[name].append(line)
    return bodies, entry


def walk(bodies: dict[str, list[str]], name: str, times: int) -> Iterator[Kernel]:
    sizes: dict[str, int] = {}
    for line in bodies.get(name, []):
        found = INSTRUCTION.match(line)
        if not found:
            continue
        result, shape, op, rest = found.groups()
        sizes[result] = size(shape)
        inner = re.search(r'(?:body|to_apply)=%?([\w.\-]+)', line)
        if op in ('while', 'call') and inner:
            yield from walk(bodies, inner[1], times * (trips(bodies, line) if op == 'while' else 1))
        elif op not in FREE and not op.endswith('-done'):
            operands = re.findall(r'%([\w.\-]+)', rest.split('), ')[0])
            # what is started names its operands in its result as well
            moved = sizes[result] + (0 if op.endswith('-start') else sum(sizes.get(x, 0) for x in operands))
            kind = 'convolution' if 'cudnn' in line else op.removesuffix('-start')
            kind = 'gather' if result.startswith('gather') else kind
            moved = size(shape, everywhere=True) if kind in COLLECTIVES else moved
            cycles = re.search(r'"estimated_cycles":"(\d+)"', line)
            label = re.search(r'op_name="([^"]*)"', line)
            yield Kernel(kind, place(label[1] if label else ''), moved * times,
                         int(cycles[1]) * times if cycles else 0, times)


def trips(bodies: dict[str, list[str]], line: str) -> int:
    """How often a loop runs: what the compiler knows, else the number that its condition compares with; 1 where that
    is not a single one."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    condition = re.search(r'condition=%?([\w.\-]+)', line)
    lines = '\n'.join(bodies.get(condition[1], [])) if condition else ''
    limits = re.findall(r' = [su]32\[\]\S* constant\((\d+)\)', lines)
    return int(known[1]) if known else int(limits[0]) if len(limits) == 1 else 1


def seconds(found: Iterable[Kernel], clock: float, bandwidth: float) -> float:
    """The time of all kernels one after the other: the compiler's estimate, or for those without one their bytes over
    the bandwidth. clock: cycles a second; 0 where there are no estimates."""
    return sum(kernel.cycles / clock if kernel.cycles else kernel.bytes / bandwidth for kernel in found)


def unestimated(found: Iterable[Kernel]) -> int:
    """How many gathers there are without an estimate: on a TPU they may take far longer than their bytes do."""
    return sum(kernel.times for kernel in found if kernel.op == 'gather' and not kernel.cycles)


def collectives(found: Iterable[Kernel]) -> dict[str, tuple[int, int]]:
    """{kind: (how many, their bytes)} of what devices tell each other: the bytes of what a device gets of it."""
    total: dict[str, tuple[int, int]] = {}
    for kernel in found:
        if kernel.op in COLLECTIVES:
            count, moved = total.get(kernel.op, (0, 0))
            total[kernel.op] = count + kernel.times, moved + kernel.bytes
    return total


def dearest(found: Iterable[Kernel], weight: str, most: int = 5) -> list[tuple[str, float]]:
    """[(place, share)] of the `most` places with the largest share of `weight`, 'cycles' or 'bytes'."""
    shares: dict[str, float] = defaultdict(float)
    for kernel in found:
        shares[kernel.place] += getattr(kernel, weight)
    total = sum(shares.values()) or 1.0
    return [(name, share / total) for name, share in sorted(shares.items(), key=lambda s: -s[1])[:most]]
