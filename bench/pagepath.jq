# SPDX-License-Identifier: MIT
# What pagepath.sh prints of its figures. $what: text, json, or missing (the figures that are no number above 0).

# The order is that of the table. target: of the median ratio to the limit; "best": at least, else at most.
def known: [
  {key: "fault-sequential-p50", text: "remote fault, pages in sequence, p50", unit: "us", of: "ping + userfault", most: 1.5},
  {key: "fault-sequential-p99", text: "  p99", unit: "us", of: "ping + userfault, p99"},
  {key: "fault-random-p50", text: "remote fault, random pages, p50", unit: "us", of: "ping + userfault", most: 1.5},
  {key: "fault-random-p99", text: "  p99", unit: "us", of: "ping + userfault, p99"},
  {key: "background", text: "background, 1 connection", unit: "GB/s", of: "one TCP stream", least: 0.7},
  {key: "background-2", text: "background, 2 connections", unit: "GB/s", of: "one TCP stream", least: 0.7},
  {key: "background-placed", text: "  the same", unit: "GB/s", of: "2 streams, every page placed", least: 0.7},
  {key: "whole-pager", text: "pager's memory, \($whole) of \($whole)", unit: "MiB", of: "16 MiB + 3 bits a page", most: 1},
  {key: "whole-source", text: "source's memory, \($whole) of \($whole)", unit: "MiB", of: "16 MiB + 3 bits a page", most: 1},
  {key: "large-pager", text: "pager's memory, \($whole) of \($large)", unit: "MiB", of: "16 MiB + 3 bits a page", most: 1},
  {key: "large-source", text: "source's memory, \($whole) of \($large)", unit: "MiB", of: "16 MiB + 3 bits a page", most: 1},
  {key: "full-pager", text: "pager's memory, \($sparse) of \($sparse)", unit: "MiB", of: "16 MiB + 3 bits a page", most: 1},
  {key: "full-source", text: "source's memory, \($sparse) of \($sparse)", unit: "MiB", of: "16 MiB + 3 bits a page", most: 1},
  {key: "sparse-pager", text: "pager's memory, \($sparse) of \($huge)", unit: "MiB", of: "16 MiB + 3 bits a page", most: 1},
  {key: "sparse-source", text: "source's memory, \($sparse) of \($huge)", unit: "MiB", of: "16 MiB + 3 bits a page", most: 1},
  {key: "full-time", text: "whole move, \($sparse) of \($sparse)", unit: "ms"},
  {key: "sparse-time", text: "whole move, \($sparse) of \($huge)", unit: "ms", of: "the same of \($sparse)"},
  {key: "downtime-idle", text: "downtime, idle guest", unit: "ms"},
  {key: "downtime-random", text: "downtime, 4 busy threads", unit: "ms"},
  {key: "gap-random", text: "longest gap of a busy thread", unit: "ms"}
];

def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
def number: if . >= 100 then round elif . >= 10 then . * 10 | round / 10 else . * 100 | round / 100 end;
def spaces($n): if $n > 0 then " " * $n else "" end;
def left($n): tostring | . + spaces($n - length);
def right($n): tostring | spaces($n - length) + .;

def verdict: if .ratio == null then "-"
  elif .most then "<= \(.most)  " + (if .ratio <= .most then "ok" else "over" end)
  elif .least then ">= \(.least)  " + (if .ratio >= .least then "ok" else "over" end)
  else "-" end;

def summary: . as $known | [$figures[] | select(.key == $known.key)] as $all | $known + {
    values: [$all[].value], limits: [$all[].limit | numbers],
    ratios: [$all[] | select([.value, .limit] | all(type == "number")) | .value / .limit]
  } | if (.values | length) == 0 or (.values | all(type == "number") | not) then . + {values: []} else . + {
    median: (.values | median), min: (.values | min), max: (.values | max),
    limit: (if .limits == [] then null else .limits | median end),
    ratio: (if .ratios == [] then null else .ratios | median end)
  } end;

def row: if .values == [] then "\(.text | left(37))  was not measured" else
    "\(.text | left(37)) \(.median | number | right(8)) \(.unit | left(4)) \("\(.min | number) .. \(.max | number)" | left(17))"
    + " \(.limit // "-" | if type == "number" then number else . end | right(7))"
    + " \(.ratio // "-" | if type == "number" then . * 100 | round / 100 else . end | right(7))  \(verdict | left(12)) \(.of // "")" end;

def of_limits($key): [$limits[][$key]] | "\(median | number) (\(min | number) .. \(max | number))";

[known[] | summary] as $summary
| if $what == "json" then
    {machine: $machine, kernel: $kernel, cores: $cores, load: $load, runs: $runs, figures: $summary, limits: $limits}
  elif $what == "missing" then
    [$summary[] | select(.values == [] or (.values | all(. > 0) | not)) | .key] | join(", ")
  else
    "umig's page path: \($machine); \($kernel); \($cores) cores; runs: \($runs); load \($load)",
    "the machine, in these runs: ping \(of_limits("ping-us-p50")) us, userfault \(of_limits("userfault-us-p50")) us,"
      + " TCP stream \(of_limits("stream-gb-per-second")) GB/s, COPY of 256 KiB \(of_limits("copy-gb-per-second")) GB/s, 2 streams placed \(of_limits("placed-gb-per-second")) GB/s, memcpy \(of_limits("memcpy-gb-per-second")) GB/s",
    "",
    "\("what" | left(37)) \("median" | right(8))      \("min .. max" | left(17)) \("limit" | right(7)) \("ratio" | right(7))  \("target" | left(12)) the limit is",
    ($summary[] | row)
  end
