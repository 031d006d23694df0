"""Small files of text."""
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: written beside, flushed to disk, then renamed."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with open(temporary, 'w', encoding='utf-8') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
