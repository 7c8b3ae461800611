"""Files and folders: which ones may be read, how text is read, and how output is written.

Every command and every training reads its text and writes its output through this package, so that

- a folder, a pipe, a device or an encoding that cannot be read raises a UserError that names it;
- output appears under its name only when it is complete;
- no two processes write the same file or folder at the same time;
- what a killed process left unfinished is removed by the next one that writes the same output.
"""

from .locks import Occupied, claim, claim_name, is_claimed, read_lock, unfinished_name, write_lock  # noqa: F401
from .output import (  # noqa: F401
    claim_folder,
    claim_new,
    make_folder,
    new_folders,
    output,
    temporary_folder,
    text_output,
    write_array,
    write_bytes,
    write_files,
    write_lines,
)
from .paths import (  # noqa: F401
    NOT_A_FILE,
    is_file,
    is_folder,
    kind_of,
    open_file,
    require_file,
    require_folder,
    scan,
    system_error,
    unwritable,
)
from .records import parse_json, read_json, read_record, to_record  # noqa: F401
from .text import read_lines, read_text  # noqa: F401
