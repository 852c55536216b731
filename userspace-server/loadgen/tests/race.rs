// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The measuring generator against a server in the test's own process, and against its own echo server.

#[cfg(test)]
mod server;

#[cfg(test)]
mod race {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Stdio};

    use assert_cmd::cargo::cargo_bin;
    use assert_cmd::Command;
    use serde_json::Value;

    use crate::server::Server;

    /// Runs it, and gives the JSON lines that it has written.
    fn race(options: &[&str], orders: &str) -> Vec<Value> {
        let mut command = Command::cargo_bin("memsrv-race").unwrap();
        let command = command.arg("run").args(options).write_stdin(orders);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let lines = output.stdout.lines().map(Result::unwrap);
        lines
            .map(|line| serde_json::from_str(&line).unwrap())
            .collect()
    }

    fn count(line: &Value, side: &str) -> u64 {
        line[side]["count"].as_u64().unwrap()
    }

    #[test]
    fn it_fills_a_server_and_measures_what_it_is_told_to() {
        let server = Server::start();

        let pid = std::process::id().to_string();
        let options = [
            "--server",
            &server.address,
            "--connections",
            "3",
            "--threads",
            "2",
            "--pages",
            "1000",
            "--depth",
            "64",
            "--pid",
            &pid,
            "--commands",
        ];
        let lines = race(&options, "64 100 200\n1 0 200\n16 50 200\n");
        let [filled, loads, stores, both] = &lines[..] else {
            panic!("{lines:?}");
        };
        assert_eq!(filled["filled_pages"], 1002);
        assert!(count(loads, "loads") > 100 && count(loads, "stores") == 0);
        assert!(count(stores, "loads") == 0 && count(stores, "stores") > 100);
        assert!(count(both, "loads") > 100 && count(both, "stores") > 100);
        for line in [loads, stores, both] {
            let all = count(line, "loads") + count(line, "stores");
            assert_eq!(line["requests"], all);
            assert!((0.2..5.0).contains(&line["seconds"].as_f64().unwrap()));
            assert!(line["server"]["cpu_us"].as_u64().unwrap() > 0, "{line}");
            assert!(line["server"]["rss_bytes"].as_u64().unwrap() > 1_000_000);
        }
        assert!(loads["loads"]["p999_us"].as_f64() >= loads["loads"]["p50_us"].as_f64());

        server.end();
    }

    /// The echo server; it is killed when the value goes.
    struct Echo(Child);

    impl Drop for Echo {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn the_echo_server_answers_as_many_bytes() {
        let mut echo = std::process::Command::new(cargo_bin("memsrv-race"));
        let echo = echo.args(["echo", "--listen", "127.0.0.1:0"]);
        let mut echo = Echo(echo.stdout(Stdio::piped()).spawn().unwrap());
        let mut said = String::new();
        let output = echo.0.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut said).unwrap();
        let address = said.trim().strip_prefix("listening on ").unwrap();
        let options = [
            "--server",
            address,
            "--protocol",
            "echo",
            "--connections",
            "5",
            "--pages",
            "5000",
            "--depth",
            "300",
            "--commands",
        ];
        let lines = race(&options, "300 50 200\n1 100 200\n");
        assert_eq!(lines[0]["filled_pages"], 5000);
        assert!(count(&lines[1], "loads") > 100 && count(&lines[1], "stores") > 100);
        assert!(count(&lines[2], "loads") > 100);
    }

    #[test]
    fn a_server_that_is_not_there_is_exit_code_1_and_said() {
        let mut command = Command::cargo_bin("memsrv-race").unwrap();
        let output = command.args(["run", "--server", "127.0.0.1:1"]).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("cannot connect to 127.0.0.1:1"), "{text}");
    }
}
