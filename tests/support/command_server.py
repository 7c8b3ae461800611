"""Runs ``dinosr``, fairseq's commands and scripts without importing torch and fairseq each time, which takes 5 to 8
seconds.

A server imports these once and forks itself for each command. So every command still runs in a process of its own, with
its own working directory, environment, output streams and exit status. ``commands_without_imports`` starts a server and
writes small programs that can be put on ``PATH``: each passes its arguments to the server and exits with the status of
the command.

Not for tests of signals or of the installed programs: a signal to one of the small programs does not reach the
command.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

ENTRY_POINTS = {
    "dinosr": ("dinosr_plugin.cli", "main"),
    "fairseq-generate": ("fairseq_cli.generate", "cli_main"),
    "fairseq-hydra-train": ("fairseq_cli.hydra_train", "cli_main"),
    "python": ("__main__", "run_script"),
}
IMPORTED_ONCE = (
    "dinosr_plugin.tasks",
    "dinosr_plugin.cli",
    "faiss",
    "matplotlib.pyplot",
    "scipy.signal",
    "torch._dynamo",  # torch imports it, in over two seconds, when a checkpoint is read or an optimiser built
)
"""The plug-in comes first: it imports fairseq without changing the root logger, which fairseq alone sets to DEBUG."""

CLIENT = """\
#!{python} -IS
import json, os, socket, sys
request = json.dumps([sys.argv[0], sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    status = server.recv(16)  # empty if the process that ran the command was killed
sys.exit(int(status or 1))
"""


@contextlib.contextmanager
def commands_without_imports(folder: Path) -> Iterator[Path]:
    """Yields ``folder``, filled with the programs of ``ENTRY_POINTS``.

    The server ends with the context, or with this process however it ends.
    """
    with tempfile.TemporaryDirectory() as short:  # addresses of sockets have at most 107 bytes
        address = f"{short}/server"
        for name in ENTRY_POINTS:
            (folder / name).write_text(CLIENT.format(python=sys.executable, address=address))
            (folder / name).chmod(0o755)
        command = [sys.executable, "-P", __file__, address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout.readline() == "ready\n", "the command server did not start"
            yield folder


def serve(address: str) -> None:
    """Answers requests until standard input is closed.

    Returns in each process that is to run a command, with its name, once its arguments, environment, streams and folder
    are set.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes the processes that have ended
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    if os.fork() == 0:  # ends the server with its parent
        os.read(0, 1)
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(0)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return prepare(connection)
        connection.close()


def prepare(connection: socket.socket) -> str:
    """Reads a request and forks a process for the command, in which it returns the name of the command.

    The process that reads waits for the end of the other, sends its status and exits.
    """
    size, streams, *_ = socket.recv_fds(connection, 8, 3)
    request = connection.makefile("rb").read(int.from_bytes(size, "big"))
    program, arguments, folder, environment = json.loads(request)
    command = os.fork()
    if command:
        status = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        connection.sendall(str(status if status >= 0 else 128 - status).encode())
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    name = Path(program).name
    sys.argv = [str(Path(sys.executable).with_name(name)), *arguments]
    if name == "python":
        sys.executable = program  # so that what a script starts does not import them either
    return name


def run_script() -> None:
    """``python [-W FILTER] SCRIPT ARGUMENT...``"""
    del sys.argv[0]
    if sys.argv[0] == "-W":
        warnings.simplefilter(sys.argv[1])
        del sys.argv[:2]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    for module in IMPORTED_ONCE:
        importlib.import_module(module)
    gc.freeze()  # the garbage collector of a command's process need not visit what is imported
    module, function = ENTRY_POINTS[serve(sys.argv[1])]
    sys.exit(getattr(importlib.import_module(module), function)())


if __name__ == "__main__":
    main()
