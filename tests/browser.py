"""Drives a headless Chromium over its own pipe: pages as a reader has them, without another package."""
import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = ('--headless=new', '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--disable-default-apps', '--disable-dev-shm-usage',
         '--remote-debugging-pipe')
SOFTWARE = ('--use-angle=swiftshader', '--enable-unsafe-swiftshader')  # WebGL without a GPU


class Page:
    """One page. `events` are those of the DevTools protocol (console, exceptions, requests) since it was made."""

    def __init__(self, commands: int, answers: int):
        self.commands, self.answers, self.held, self.number, self.events = commands, answers, b'', 0, []
        self.session = None
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **parameters) -> dict:
        """The result of a command of the DevTools protocol. Raises RuntimeError for its errors, and after 30 s."""
        self.number += 1
        message = {'id': self.number, 'method': method, 'params': parameters}
        message |= {'sessionId': self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b'\0')
        until = time.monotonic() + 30
        while True:
            for answer in self._read(until - time.monotonic(), method):
                if answer.get('id') == self.number:
                    if 'error' in answer:
                        raise RuntimeError(f'{method}: {answer["error"]}')
                    return answer['result']
                self.events.append(answer)

    def _read(self, seconds: float, what: str) -> Iterator[dict]:
        while b'\0' not in self.held:
            if not select.select([self.answers], [], [], max(0, seconds))[0]:
                raise RuntimeError(f'{what}: Chromium did not answer in 30 s')
            part = os.read(self.answers, 1 << 20)
            if not part:
                raise RuntimeError(f'{what}: Chromium has ended')
            self.held += part
        *whole, self.held = self.held.split(b'\0')
        yield from list(map(json.loads, whole))

    def run(self, script: str):
        """The value of JavaScript, awaited. Raises RuntimeError for what it throws."""
        result = self.call('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(f'{script}: {result["exceptionDetails"]}')
        return result['result'].get('value')

    def wait(self, condition: str, seconds: float = 20) -> float:
        """Seconds until the JavaScript is true. Raises RuntimeError where it does not become so."""
        begun = time.monotonic()
        while not self.run(f'!!({condition})'):
            if time.monotonic() - begun > seconds:
                raise RuntimeError(f'not true in {seconds} s: {condition}')
            time.sleep(0.02)
        return time.monotonic() - begun

    def open(self, path: Path, width: int = 1400, height: int = 1000, scheme: str = 'light', media: str = '') -> None:
        """Opens a file at a width of the window; `media` may be 'print'."""
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call('Emulation.setEmulatedMedia', media=media,
                  features=[{'name': 'prefers-color-scheme', 'value': scheme}])
        self.call('Page.navigate', url=path.resolve().as_uri())

    def key(self, name: str, modifiers: int = 0) -> None:
        """Presses a key, such as 'ArrowUp'; modifiers: 8 is shift."""
        codes = {'Tab': 9, 'Enter': 13, 'PageUp': 33, 'PageDown': 34, 'ArrowLeft': 37, 'ArrowUp': 38, 'ArrowRight': 39,
                 'ArrowDown': 40}
        text = {'text': '\r'} if name == 'Enter' else {'text': name} if len(name) == 1 else {}
        for kind in ('keyDown', 'keyUp'):
            self.call('Input.dispatchKeyEvent', type=kind, key=name, code=name, modifiers=modifiers,
                      windowsVirtualKeyCode=codes.get(name, ord(name[0])), **(text if kind == 'keyDown' else {}))
        self.settle()

    def mouse(self, selector: str, x: float, y: float, kind: str = 'click', **more) -> None:
        """The mouse at a place (shares of width and height) of an element: 'click', 'move' or 'wheel'."""
        box = self.run(f'(e => {{ e.scrollIntoView({{block: "center"}}); const b = e.getBoundingClientRect();'
                       f'return [b.x, b.y, b.width, b.height] }})(document.querySelector({json.dumps(selector)}))')
        at = {'x': box[0] + x * box[2], 'y': box[1] + y * box[3]}
        kinds = {'click': ('mousePressed', 'mouseReleased'), 'move': ('mouseMoved',), 'wheel': ('mouseWheel',)}[kind]
        for name in kinds:
            button = {'button': 'left', 'clickCount': 1} if kind == 'click' else {}
            self.call('Input.dispatchMouseEvent', type=name, **at, **button, **more)
        self.settle()

    def settle(self) -> None:
        """Two frames: what an event asked for is drawn."""
        self.run('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')

    def shot(self, whole: bool = False) -> bytes:
        """The window, or the whole page, as PNG."""
        return base64.b64decode(self.call('Page.captureScreenshot', format='png', captureBeyondViewport=whole)['data'])

    def complaints(self) -> list[str]:
        """Errors and warnings in the console, exceptions, and requests for anything but the file itself."""
        found = []
        for event in self.events:
            method, values = event.get('method'), event.get('params', {})
            if method == 'Runtime.exceptionThrown':
                found.append(str(values['exceptionDetails'].get('exception', values['exceptionDetails'])))
            elif method == 'Runtime.consoleAPICalled' and values['type'] in ('error', 'warning', 'assert'):
                found.append(str(values['args']))
            elif method == 'Log.entryAdded' and values['entry']['level'] == 'error':
                found.append(values['entry']['text'])
            elif method == 'Network.requestWillBeSent' and not values['request']['url'].startswith(('file:', 'data:')):
                found.append(values['request']['url'])
        return found


@contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[Page]:
    """A page of a Chromium of its own, which ends with the block; `profile` is an empty folder."""
    reads, commands = os.pipe()
    answers, writes = os.pipe()
    apart = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reads, writes)]  # neither is 3 or 4 before it is meant
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    # The protocol is spoken on descriptors 3 and 4. A preexec_fn would fork a process that has threads
    process = os.posix_spawn(CHROMIUM, [CHROMIUM, *FLAGS, *flags, f'--user-data-dir={profile}'], os.environ,
                             file_actions=[*((os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(apart, (3, 4))),
                                           *quiet])
    for end in (reads, writes, *apart):
        os.close(end)
    try:
        yield Page(commands, answers)
    finally:
        os.kill(process, signal.SIGKILL)  # its folder is the caller's, and nothing in it is wanted
        os.waitpid(process, 0)
        os.close(commands)
        os.close(answers)
