"""One decision of a plan, and the device that it is for."""
from typing import Any, NamedTuple


class Device(NamedTuple):
    """What the plan is for."""
    kind: str  # 'cpu', 'gpu' or 'tpu'
    name: str
    count: int  # of all processes
    memory: float  # bytes each


class Decision(NamedTuple):
    changes: dict[str, Any]  # {'section.field': value}
    reason: str

    def line(self) -> str:
        return f'{", ".join(f"{name} {shown(value)}" for name, value in self.changes.items())}: {self.reason}'


def shown(value: Any) -> str:
    if isinstance(value, tuple) and value and all(isinstance(n, int) and not isinstance(n, bool) for n in value):
        return '×'.join(map(str, value)) if len(value) in (2, 3) else '-'.join(map(str, value))
    return f'{value:g}' if isinstance(value, float) else str(value).replace(' ', '')
