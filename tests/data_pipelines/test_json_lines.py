"""JSON lines: one value a line, whatever stands in its strings."""

import json

from data_pipelines.readers import tables


def test_line_signs_inside_strings_part_no_line(tmp_path):
  file = tmp_path / "rows.jsonl"
  rows = [{"text": "a\u2028b"}, {"text": "c\u0085d\u2029e"}, {"text": "f"}]
  text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
  file.write_bytes(f"{text}\r\n\r\n{{broken\n".encode())
  *found, (number, error) = tables.lines(file)
  assert found == list(enumerate(rows, 1))
  assert number == 5
  assert isinstance(error, ValueError)
