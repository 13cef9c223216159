"""Read prompt files as people write them. A file that is ambiguous raises an error: no text is altered.

**Text.** UTF-8, with or without a byte order mark. Only `\\n`, `\\r\\n` and `\\r` end a line. White space
around a prompt is dropped; blank prompts are skipped and counted; repeats are kept, since each draws its own
noise. A prompt of more than 100,000 characters, with NUL or with half of a surrogate pair is refused with its
line. With a limit and without a shuffle, a file is read no further than needed.

**.txt** holds one prompt per line.

**Columns.** A table or a record has its prompts in the column named prompt, caption or text, in any case,
singular or plural. Where several columns have such names, or none does, `--column` decides. A column may hold
lists of texts, each a prompt. Missing values are blank; numbers of JSON and parquet are refused.

**.csv, .tsv.** The first line that is not blank decides:

1. It is a header if one of its fields is such a column, or the one that `--column` names; separators may be
   commas, semicolons, tabs or pipes. Every row then has as many fields as the header.
2. A header of one field: each line is a prompt, separators included, unless it is one quoted field.
3. No header: each line is a prompt as in 2, unless all lines hold the same separator. Then they may be rows
   of a table, and `--column` gives the number of the column, from 1.

Quotation marks that begin a field enclose it and are doubled within, as RFC 4180 has it. Between tabs they
may be text as well, and the file is read both ways. Where the readings differ, one is taken if the other is
impossible or gives rows of unequal length; the quoted one if the file doubles quotation marks or quotes its
header. Otherwise the file is refused, with the line.

**.jsonl** holds one record per line, **.json** a list of records, COCO's `annotations`, or one record: a
text, or an object with columns. **.parquet** is read in batches, and only the column of the prompts.
"""

from .lines import fit_lines
from .read import PromptFile, read_prompts

__all__ = ["PromptFile", "fit_lines", "read_prompts"]
