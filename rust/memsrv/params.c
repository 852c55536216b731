// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module's parameters. They stand in C because the kernel's module! macro knows numbers only,
 * and together, so that modinfo and /sys/module/memsrv/parameters show all of them alike.
 */
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "helpers.h"

MODULE_VERSION("0.1.0");

char memsrv_param_server[MEMSRV_ADDR_MAX];
module_param_string(server, memsrv_param_server, sizeof(memsrv_param_server), 0444);
MODULE_PARM_DESC(server, "memory server: HOST[:PORT], HOST an IPv4 address or an IPv6 address in brackets; port 7170 unless given");

char memsrv_param_mirror[MEMSRV_ADDR_MAX];
module_param_string(mirror, memsrv_param_mirror, sizeof(memsrv_param_mirror), 0444);
MODULE_PARM_DESC(mirror, "second memory server, given like server: each page is stored on both, and either is enough to read it");

char memsrv_param_region[MEMSRV_NAME_MAX] = "swap";
module_param_string(region, memsrv_param_region, sizeof(memsrv_param_region), 0444);
MODULE_PARM_DESC(region, "name of this client's set of pages on the server: 1 to 64 of A-Z a-z 0-9 . _ - (default: swap)");

char memsrv_param_client[MEMSRV_NAME_MAX];
module_param_string(client, memsrv_param_client, sizeof(memsrv_param_client), 0444);
MODULE_PARM_DESC(client, "name of this client, as the server counts its quota by: like region (default: the host name)");

char memsrv_param_disk[MEMSRV_WORD_MAX] = "fallback";
module_param_string(disk, memsrv_param_disk, sizeof(memsrv_param_disk), 0444);
MODULE_PARM_DESC(disk, "what goes to the swap area: fallback, which is what no server takes, or through, which is every page, so that a page that no server gives back is read from there (default: fallback)");

char memsrv_param_compress[MEMSRV_WORD_MAX] = "none";
module_param_string(compress, memsrv_param_compress, sizeof(memsrv_param_compress), 0444);
MODULE_PARM_DESC(compress, "how pages travel and are kept: none, as they are, or lz4, compressed where that saves an eighth at least, if every server grants it (default: none)");

unsigned int memsrv_param_connections;
module_param_named(connections, memsrv_param_connections, uint, 0444);
MODULE_PARM_DESC(connections, "TCP connections to the server, 1 to 64 (default 0: one per CPU, 4 at most)");

unsigned int memsrv_param_inflight;
module_param_named(inflight, memsrv_param_inflight, uint, 0444);
MODULE_PARM_DESC(inflight, "pages that may be on their way to the server at a time, 4 KiB of memory each, 1 to 65536; below 512 no huge page can go (default 0: a 32nd of the RAM, but 1024 to 8192)");

unsigned int memsrv_param_store_ms = 10000;
module_param_named(store_ms, memsrv_param_store_ms, uint, 0444);
MODULE_PARM_DESC(store_ms, "milliseconds after which a store without an answer ends as failed, 1000 to 600000; the page stays in RAM (default 10000)");

unsigned int memsrv_param_hold_ms = 60000;
module_param_named(hold_ms, memsrv_param_hold_ms, uint, 0444);
MODULE_PARM_DESC(hold_ms, "milliseconds that a load waits for a server that is away before it fails; not used with disk=through (default 60000; keep below half of kernel.hung_task_timeout_secs)");

unsigned int memsrv_param_silence_ms;
module_param_named(silence_ms, memsrv_param_silence_ms, uint, 0444);
MODULE_PARM_DESC(silence_ms, "milliseconds without any byte from a server that owes an answer after which the connection is made anew, 100 to 600000 (default 0: 5000, with a mirror or disk=through 1000)");

unsigned int memsrv_param_hedge_ms = 200;
module_param_named(hedge_ms, memsrv_param_hedge_ms, uint, 0444);
MODULE_PARM_DESC(hedge_ms, "milliseconds that a load waits for one server before the other is asked, too, 1 to 600000 (default 200)");

unsigned int memsrv_param_spin_us = 2000;
module_param_named(spin_us, memsrv_param_spin_us, uint, 0444);
MODULE_PARM_DESC(spin_us, "microseconds that a faulting task waits for its page without sleeping, at the most, where nobody else wants its processor and a wake-up takes more than a tenth of that, 0 to 10000 (default 2000; 0: it always sleeps)");

unsigned int memsrv_param_dscp;
module_param_named(dscp, memsrv_param_dscp, uint, 0444);
MODULE_PARM_DESC(dscp, "DSCP of what is sent to the servers, 0 to 63, for switches that serve some traffic sooner (default 0)");

unsigned int memsrv_param_ahead = 64;
module_param_named(ahead, memsrv_param_ahead, uint, 0444);
MODULE_PARM_DESC(ahead, "pages of memory a connection has for what is asked for before it is wanted, where a program reads along a stride, 0 to 64 (default 64; 0: nothing; without mirror and disk=through only)");

bool memsrv_param_mirror_strict;
module_param_named(mirror_strict, memsrv_param_mirror_strict, bool, 0444);
MODULE_PARM_DESC(mirror_strict, "with a mirror, take no page that only one of the servers would hold (default N: while one is away the other carries on alone)");

bool memsrv_param_keep_clean = true;
module_param_named(keep_clean, memsrv_param_keep_clean, bool, 0444);
MODULE_PARM_DESC(keep_clean, "keep the server's copy of a page that was read back, so that an unchanged page need not be sent again (default Y)");
