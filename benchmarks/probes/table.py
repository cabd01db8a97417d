"""The QK sweep's rows of probes.csv as tables: observers down, consumer groups across, ms."""

import csv
import re
import sys

CASE = re.compile(r"(\S+) D(\d+) N(\d+) (\S+) Q (\S+) (\S+) (.*)")


def main(path):
    times, clocks, predicted, groups = {}, {}, {}, []
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if row["probe"] != "qk_sweep" or row["measure"] not in ("time", "clock"):
                continue
            group, d, n, kind, q, ring, observer = CASE.match(row["case"]).groups()
            if observer == "nothing":
                observer += f", Q {q}, {'128' if ring.endswith('x128') else '64'} a stage"
            label = f"{kind} {observer}" if observer.startswith("R1") else observer
            table = times if row["measure"] == "time" else clocks
            table.setdefault((d, n), {}).setdefault(label, {})[group] = float(row["value"])
            if row["predicted"]:
                predicted[d, n, label] = row["predicted"]
            if group not in groups:
                groups.append(group)
    for (d, n), rows in sorted(times.items(), key=lambda item: (int(item[0][0]), int(item[0][1]))):
        print(f"QK sweep D{d} N{n}, ms   " + "".join(f"{'W ' + g:>9}" for g in groups) + "   MHz")
        for label, by_group in rows.items():
            cells = "".join(f"{by_group[g]:9.4f}" if g in by_group else f"{'-':>9}" for g in groups)
            seen = clocks[d, n][label].values()
            print(f"{label:26}{cells}  {min(seen):.0f}-{max(seen):.0f}  {predicted.get((d, n, label), '')}")


if __name__ == "__main__":
    main(sys.argv[1])
