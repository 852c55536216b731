// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The load generator against a server in the test's own process.

#[cfg(test)]
mod server;

#[cfg(test)]
mod run {
    use assert_cmd::Command;

    use crate::server::Server;

    fn loadgen(server: &str, options: &[&str]) -> std::process::Output {
        let mut command = Command::cargo_bin("memsrv-loadgen").unwrap();
        command
            .args(["--server", server])
            .args(options)
            .output()
            .unwrap()
    }

    #[test]
    fn it_finds_nothing_wrong_and_tells_rates_and_times() {
        let server = Server::start();

        let options = [
            "--connections",
            "2",
            "--pages",
            "500",
            "--seconds",
            "1",
            "--json",
        ];
        let output = loadgen(&server.address, &options);
        assert!(output.status.success(), "{output:?}");
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["wrong"], 0);
        assert_eq!(result["refused"], 0);
        assert!(result["per_second"].as_u64().unwrap() > 100, "{result}");
        for side in ["loads", "stores"] {
            let side = &result[side];
            assert!(side["count"].as_u64().unwrap() > 0);
            assert!(side["p99_us"].as_u64() >= side["p50_us"].as_u64());
        }

        server.end();
    }

    #[test]
    fn a_server_that_is_not_there_is_exit_code_1_and_said() {
        let output = loadgen("127.0.0.1:1", &[]);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("cannot connect to 127.0.0.1:1"), "{text}");
    }
}
