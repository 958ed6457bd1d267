# SPDX-License-Identifier: Apache-2.0
"""A program for Flink: it counts in its state what it reads, and a file says how far it has read, and counted."""
from __future__ import annotations

import subprocess
from pathlib import Path

#: Of versions: {version}; what it does before it counts: {first}; the name of its state's operator: {uid}.
COUNTER = """import java.nio.file.*;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.*;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.util.Collector;
public class Counter {
    static class Count extends KeyedProcessFunction<Boolean, Long, Long> {
        final String file;
        transient ValueState<Long> seen;
        Count(String file) { this.file = file; }
        @Override public void open(OpenContext context) { seen = getRuntimeContext().getState(new ValueStateDescriptor<>("seen", Long.class)); }
        @Override public void processElement(Long value, Context context, Collector<Long> out) throws Exception {
            {first}
            seen.update(seen.value() == null ? 1 : seen.value() + 1);
            Path hidden = Path.of(file + ".new");
            Files.writeString(hidden, "{version} " + value + " " + seen.value());
            Files.move(hidden, Path.of(file), StandardCopyOption.ATOMIC_MOVE);
        }
    }
    static Long slow(Long value) throws InterruptedException { Thread.sleep(100); return value; }
    public static void main(String[] args) throws Exception {
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
        environment.fromSequence(0, 1000000).map(Counter::slow).uid("read").keyBy(value -> true).process(new Count(args[0])).uid("{uid}")
            .sinkTo(new DiscardingSink<>());
        if (args.length > 1) environment.execute(args[1]); else environment.execute();
        if (args.length > 2) { environment.fromSequence(0, 1).sinkTo(new DiscardingSink<>()); environment.execute(args[2]); }
    }
}
"""


def build(folder: Path, classes: Path, version: str, first: str = "", uid: str = "count") -> Path:
    """The jar of a version, made in a folder of its own with Flink's *classes*."""
    folder.mkdir()
    (folder / "Counter.java").write_text(COUNTER.replace("{first}", first).replace("{version}", version).replace("{uid}", uid), encoding="ascii")
    subprocess.run(["javac", "--release", "17", "-nowarn", "-cp", f"{classes}/*", "Counter.java"], cwd=folder, check=True, timeout=300)
    subprocess.run("jar --create --file counter.jar --main-class Counter *.class", shell=True, cwd=folder, check=True, timeout=300)
    return folder / "counter.jar"


def counted(text: str, version: str, more_than: int) -> int:
    """How far this version has come, 0 where it is not farther than that. It has counted all that it has read: nothing lost, nothing twice."""
    who, value, count = text.split()
    assert int(count) == int(value) + 1
    return int(count) if who == version and int(count) > more_than else 0
