// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The client library and a server that kept its pages over a restart.
//!
//! The server is this test's own program, started again: cargo builds no other crate's programs for a test.

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::net::{SocketAddr, TcpListener};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use clap::Parser;
    use memsrv_client::{Client, ClientConfig, Page, Slot, PAGE_SIZE};
    use memsrvd::config::{Args, Config};

    const DIR: &str = "MEMSRV_PERSIST_DIR";
    const OPTIONS: &str = "MEMSRV_PERSIST_OPTIONS";
    const LISTENING: &str = "memsrvd listens on ";

    struct Server {
        address: SocketAddr,
        child: Child,
    }

    impl Server {
        /// Starts it with a log in `dir`; `options` has the address, too.
        fn start(dir: &Path, options: &str) -> Server {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::the_server_of_the_other_tests"])
                .args(["--ignored", "--nocapture"])
                .env(DIR, dir)
                .env(OPTIONS, options)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            while !line.starts_with(LISTENING) {
                line.clear();
                let len = output.read_line(&mut line).unwrap();
                assert_ne!(len, 0, "the server ended before it listened");
            }
            // What it says later must find a reader.
            std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
            let address = line[LISTENING.len()..].trim().parse().unwrap();
            Server { address, child }
        }

        /// Stops it in order.
        fn stop(mut self) {
            drop(self.child.stdin.take());
            assert!(self.child.wait().unwrap().success());
        }

        fn kill(mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }

    #[test]
    #[ignore = "the other tests start it as a program"]
    fn the_server_of_the_other_tests() {
        let (Ok(dir), Ok(options)) = (std::env::var(DIR), std::env::var(OPTIONS)) else {
            return;
        };
        let fixed = [
            "memsrvd",
            "--no-lock",
            "--capacity",
            "16M",
            "--persist",
            &dir,
        ];
        let args = fixed.into_iter().chain(options.split_whitespace());
        let config = Config::resolve(Args::try_parse_from(args).unwrap()).unwrap();
        let listener = memsrvd::listener::bind(config.listen).unwrap();
        // It is said once the log is read: who connects before is refused, and tries again.
        println!(
            "\n{LISTENING}{}",
            TcpListener::local_addr(&listener).unwrap()
        );
        let (stop, stopped) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let _until_its_end = std::io::stdin().read_to_end(&mut Vec::new());
            drop(stop);
        });
        memsrvd::server::run(&config, listener, stopped).unwrap();
    }

    fn page(seed: u64) -> Page {
        let mut page = [0; PAGE_SIZE];
        for (index, word) in page.chunks_exact_mut(8).enumerate() {
            let word_seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ memsrvd::num::to_u64(index);
            word.copy_from_slice(&word_seed.to_le_bytes());
        }
        page
    }

    fn connect(address: SocketAddr) -> Client {
        let config = ClientConfig {
            silence_timeout: Duration::from_secs(60),
            store_timeout: Duration::from_secs(120),
            load_timeout: Duration::from_secs(120),
            ..ClientConfig::new("keeper", "swap")
        };
        // Its port is bound before its log is read.
        loop {
            match Client::connect(address, config.clone()) {
                Ok(client) => return client,
                Err(memsrv_client::Error::Connect { .. }) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Stopped in order, or killed where acknowledgements wait: the same session goes on, with the same life
    /// of the server, all pages are there and what was freed is not.
    #[test]
    fn a_client_resumes_with_a_server_that_kept_its_pages() {
        for kill in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let ack = if kill { "--persist-ack" } else { "" };
            let start =
                |listen: &str| Server::start(dir.path(), &format!("--listen {listen} {ack}"));
            let mut server = start("127.0.0.1:0");
            let address = server.address.to_string();
            let client = connect(server.address);
            let instance = client.instance();
            for round in 0..3 {
                for n in 0..200 {
                    client.store(Slot(n * 37), &page(n + 1000 * round)).unwrap();
                }
                (0..200)
                    .step_by(3)
                    .for_each(|n| client.free(Slot(n * 37)).unwrap());
                client.flush().unwrap();
                if kill {
                    server.kill();
                } else {
                    server.stop();
                }
                server = start(&address);
                for n in 0..200 {
                    let mut found = [0; PAGE_SIZE];
                    let loaded = client.load(Slot(n * 37), &mut found);
                    if n % 3 == 0 {
                        assert!(loaded.is_err(), "slot {n} is back");
                    } else {
                        loaded.unwrap();
                        assert!(found == page(n + 1000 * round), "slot {n} has other bytes");
                    }
                }
                assert_eq!(client.instance(), instance);
                assert!(client.reconnects() > 0);
            }
            client.bye().unwrap();
            server.stop();
        }
    }
}
