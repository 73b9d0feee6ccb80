# SPDX-License-Identifier: MIT
# What recovery.sh prints of its figures. $what: text, json, or missing (what was not measured).

def known: [
  {key: "quiet", text: "longest pause, nothing happens", unit: "ms"},
  {key: "pager", text: "kill -9 of the pager to the next fault served", unit: "ms", most: 50},
  {key: "cut", text: "connections closed for \($cut) ms: beyond these", unit: "ms", most: 200},
  {key: "cable", text: "cable pulled for \($pulled) ms: beyond these", unit: "ms", most: 200, optional: true},
  {key: "traffic", text: "sent more for a broken link, of what had moved", unit: "%", most: 1}
];

def at($q): sort | .[((length - 1) * $q) | round];
def number: if . >= 100 or . <= -100 then round elif . >= 10 then . * 10 | round / 10 else . * 100 | round / 100 end | tostring;
def spaces($n): if $n > 0 then " " * $n else "" end;
def left($n): . + spaces($n - length);
def right($n): spaces($n - length) + .;

[known[] | . as $k | . + {values: [$figures[] | select(.key == $k.key) | .value]} | . + if .values == [] then {} else
  {count: (.values | length), p50: (.values | at(0.5)), p99: (.values | at(0.99)), min: (.values | min), max: (.values | max)} end] as $all
| if $what == "json" then
    {machine: $machine, kernel: $kernel, cores: $cores, load: $load, figures: $all}
  elif $what == "missing" then
    [$all[] | select(.values == [] and (.optional | not)) | .key] | join(", ")
  else
    "umig's recovery: \($machine); \($kernel); \($cores) cores; load \($load)", "",
    "\("" | left(48)) \("count" | right(6)) \("median" | right(8)) \("99 %" | right(8)) \("most" | right(8))       target",
    ($all[] | if .values == [] then "\(.text | left(48))  was not measured" else
      "\(.text | left(48)) \(.count | tostring | right(6)) \(.p50 | number | right(8)) \(.p99 | number | right(8)) \(.max | number | right(8)) \(.unit | left(4))"
      + (if .most then "  <= \(.most)  \(if .p99 <= .most then "ok" elif .p50 <= .most then "ok in the median" else "over" end)" else "" end) end)
  end
