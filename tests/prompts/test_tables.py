"""Tables of text: separators, headers and quotation marks."""

import csv
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdquant_cli.prompts.tables import read_table

from .files import assert_comes_back, lines_only, prompt_lists, read, refusal, table

SEPARATORS = {".csv": ",", ".tsv": "\t"}


@given(
    prompt_lists,
    st.sampled_from([["prompt"], ["id", "prompt"], ["Prompt", "note"], ["id", "text", "note"]]),
    st.sampled_from([",", ";", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\r\n", "\n"]),
)
def test_any_prompts_come_back_from_csv(tmp_path_factory, prompts, names, separator, quoting, end):
    separator = "," if len(names) == 1 else separator
    if end == "\n":  # before Python 3.13 the writer does not quote "\r" then
        prompts = [prompt.replace("\r", " ") for prompt in prompts]
    columns = {"id": 7, "note": ' a "note", or;so'}
    rows = [[columns.get(name, prompt) for name in names] for prompt in prompts]
    data = table([names, *rows], separator, quoting=quoting, lineterminator=end)
    # white space before a quotation mark is what hand-written files have by mistake
    refusable = any(prompt[:1].isspace() and prompt.lstrip().startswith('"') for prompt in prompts)
    assert_comes_back(data, ".csv", prompts, tmp_path_factory, refusable=refusable)


@given(
    prompt_lists,
    st.sampled_from(list(SEPARATORS)),
    st.sampled_from(["Prompt", "a star", "a star; big", "a star, big", '"a" star', "a\tstar", "a\nstar"]),
)
def test_prompts_of_one_column_come_back_or_are_refused(tmp_path_factory, prompts, suffix, first):
    data = table([[first], *([prompt] for prompt in prompts)], SEPARATORS[suffix])
    prompts = prompts if first == "Prompt" else [first, *prompts]
    assert_comes_back(data, suffix, prompts, tmp_path_factory, refusable=True)


@given(prompt_lists, st.sampled_from([["id", "prompt"], ["Prompt", "note"], ["id", "text", "note"]]))
def test_prompts_between_tabs_come_back_or_are_refused(tmp_path_factory, prompts, names):
    columns = {"id": 7, "note": "plain"}
    rows = [[columns.get(name, prompt) for name in names] for prompt in prompts]
    assert_comes_back(table([names, *rows], "\t"), ".tsv", prompts, tmp_path_factory, refusable=True)


@given(lines_only, st.booleans())
def test_unquoted_prompts_between_tabs_come_back_or_are_refused(tmp_path_factory, prompts, header):
    """Quotation marks are text here; only a file that looks as if it doubled them may be read otherwise."""
    prompts = [re.sub('"+', '"', prompt.replace("\t", " ")) for prompt in prompts]
    head = "prompt\tnote\n" if header else "Prompt\n"
    rest = "\tplain\n" if header else "\n"
    data = (head + "".join(prompt + rest for prompt in prompts)).encode()
    assert_comes_back(data, ".tsv", prompts, tmp_path_factory, refusable=True)


@pytest.mark.parametrize(
    ("name", "data", "prompts"),
    [
        # one column: the line is the prompt
        ("a.csv", "prompt\na circle, big, bold\na star; small\n", ["a circle, big, bold", "a star; small"]),
        ("a.csv", 'prompt\n"a circle, big"\na star, small\n', ["a circle, big", "a star, small"]),
        ("a.csv", 'prompt\na sign, "open", red\n', ['a sign, "open", red']),
        ("a.csv", 'prompt\na 5" nail\n"a ""big"" star\nand more"\n', ['a 5" nail', 'a "big" star\nand more']),
        ("a.csv", "a circle\na star, small\n", ["a circle", "a star, small"]),
        ("a.csv", 'a circle\n"a star, small"\n', ["a circle", "a star, small"]),
        ("a.tsv", "a circle, big\na star\n", ["a circle, big", "a star"]),
        ("a.tsv", "a circle, big\na star, small\n", None),
        ("a.csv", "\n \nprompt\na circle\n", ["a circle"]),
        # several columns
        ("a.csv", "id;prompt\n1;a circle, big\n2;a star\n", ["a circle, big", "a star"]),
        ("a.csv", "id\tprompt\n1\ta circle, big\n", ["a circle, big"]),
        ("a.csv", "id|prompt\r\n1|a circle, big\r\n", ["a circle, big"]),
        ("a.tsv", "id,prompt\n1,a circle\n", ["a circle"]),
        ("a.csv", "id,prompt\n1,null\n2,None\n3,NA\n4,nan\n5,\n", ["null", "None", "NA", "nan"]),
        ("a.csv", "\ufeffprompt,id\r\na circle,1\r\n\r\na star,2\r\n", ["a circle", "a star"]),
        ("a.csv", "prompt,id\ra circle,1\ra star,2\r", ["a circle", "a star"]),
        ("a.csv", "id, prompt\n1, a circle\n", ["a circle"]),
        ("a.csv", ",prompt\n0,a circle\n", ["a circle"]),
        ("a.csv", '"id","prompt"\n"1","a ""big"" circle"\n', ['a "big" circle']),
        # tabs: quotation marks are text unless the file surely quotes
        ("a.tsv", 'Prompt\tNote\n"GIGGLE" in paint\t\na 5" nail\t\n', ['"GIGGLE" in paint', 'a 5" nail']),
        ("a.tsv", 'prompt\tid\n"a lone mark\t1\nanother "\t2\nthird\t3\n', None),
        ("a.tsv", 'prompt\tid\n"a lone mark\t1\nthird\t3\n', ['"a lone mark', "third"]),
        ("a.tsv", 'prompt\tid\n"a ""big"" star"\t1\n"x, y"\t2\n', ['a "big" star', "x, y"]),
        ("a.tsv", 'id\tprompt\n1\t"a red\ncircle"\n2\t"x"\n', ["a red\ncircle", "x"]),
        ("a.tsv", '"prompt"\t"id"\n"a circle"\t"1"\n', ["a circle"]),
    ],
)
def test_tables_as_people_write_them(tmp_path, name, data, prompts):
    if prompts is None:
        refusal(tmp_path, name, data)
    else:
        assert read(tmp_path, name, data) == prompts


@pytest.mark.parametrize(
    ("header", "row", "prompt"),
    [
        ("Prompt\tCategory\tChallenge\tNote", "42\tAbstract\tBasic\tnumbers", "42"),  # PartiPrompts
        ("Prompts,Category", "A red car.,Colors", "A red car."),  # DrawBench
        ("URL,TEXT,similarity", "u,a star,0.3", "a star"),  # LAION
        ("image_name,prompt,part_id,seed", "x.png,a star,1,2", "a star"),  # DiffusionDB
        ("best_image_uid,caption,model_0", "u,a star,m", "a star"),  # Pick-a-Pic
        ("prompt_id,prompt,classification", "1,a star,c", "a star"),  # ImageReward
        ("image,Captions", "1.jpg,a star", "a star"),
    ],
)
def test_columns_of_published_lists(tmp_path, header, row, prompt):
    name = "a.tsv" if "\t" in header else "a.csv"
    assert read(tmp_path, name, f"{header}\n{row}\n") == [prompt]


@pytest.mark.parametrize(
    ("name", "data", "column", "prompts"),
    [
        ("a.csv", "title,author\na star,me\n", "title", ["a star"]),
        ("a.csv", "title,prompt\na star,me\n", "Title", ["a star"]),
        ("a.csv", "text,caption\na star,a blue star\n", "caption", ["a blue star"]),
        ("a.csv", "Text,text\na star,a blue star\n", "text", ["a blue star"]),
        ("a.csv", "title\na star, big\n", "title", ["a star, big"]),
        ("a.csv", '1,"a star, big"\n2,a circle\n', "2", ["a star, big", "a circle"]),
        ("a.csv", "1;a star, big\n2;a circle\n", "2", ["a star, big", "a circle"]),
        ("a.tsv", 'a star\turl\na 5" nail\turl\n', "1", ["a star", 'a 5" nail']),
    ],
)
def test_the_user_names_the_column(tmp_path, name, data, column, prompts):
    assert read(tmp_path, name, data, column=column) == prompts


@pytest.mark.parametrize(
    ("name", "data", "column", "says"),
    [
        ("a.csv", "id,prompt\n1,a circle, big, bold\n", None, "line 2 has 4 fields, the header has 2"),
        ("a.csv", "id,prompt\n1,a star\n2\n", None, "line 3 has 1 fields"),
        ("a.csv", 'prompt\n"Hello" says a robot\n', None, "line 2: .*quote the field as a whole"),
        ("a.csv", 'prompt\nfine\n"Hello", says a robot\n', None, "line 3 is quoted in part"),
        ("a.csv", 'prompt\nfine\n"never ends\nat all\n', None, "line 3: unexpected end"),
        ("a.csv", 'id,prompt\n1, "a star"\n', None, "line 2: white space before a quotation mark"),
        ("a.csv", "id,title\n1,x\n", None, "--column 1 to 2.*: id, title"),
        ("a.csv", "1;x, y\n2;z\n", None, "all lines hold a semicolon.*name the file .txt"),
        ("a.csv", "a star, big\n", None, "all lines hold a comma"),
        ("a.csv", "prompt,caption\nx,y\n", None, "2 columns.*: prompt, caption; name one with --column"),
        ("a.csv", "prompt,prompt\nx,y\n", None, "rename the column"),
        ("a.csv", "prompt;text,caption\n", None, "a header by comma and by semicolon"),
        ("a.csv", "id,prompt\n1,x\n", "Title", "no column Title.*found id, prompt"),
        ("a.csv", "id,prompt\n1,x\n", "2", "the first line is a header; name a column of id, prompt"),
        ("a.csv", "1,x\n2,y\n", "3", "no column 3.*found 1, 2"),
        ("a.csv", "1,x\n2,y\n", "0", "no column 0"),
        ("a.csv", "1,x\n2,y\n", "9" * 5000, "no column"),
        ("a.csv", "1,x, y\n2,y\n", "2", "no separator can divide all lines"),
        ("a.csv", "1;x, y\n2;z, w\n", "2", "comma and semicolon can divide"),
        ("a.tsv", 'prompt\tid\nx\t1\n"Hello"\t2\n', None, "line 3: the quotation marks"),
    ],
)
def test_ambiguous_tables_are_refused(tmp_path, name, data, column, says):
    message = refusal(tmp_path, name, data, column=column)
    assert re.search(says, message), message


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", b"", "holds no prompt"),
        ("a.csv", b"prompt\n\n", "holds no prompt"),
        ("a.csv", "prompt\nein großer Kreis\n".encode("latin-1"), "line 2 is not UTF-8.*iconv"),
    ],
)
def test_bad_tables_are_named_in_one_line(tmp_path, name, data, says):
    message = refusal(tmp_path, name, data)
    assert re.search(says, message), message


def test_rows_have_the_number_of_their_first_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\nid,prompt\n1,"a\nb"\n\n2,c\n')
    assert list(read_table(path, None)) == [("line 3", "a\nb"), ("line 5", ""), ("line 6", "c")]
