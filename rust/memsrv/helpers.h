/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What Rust needs from C that is inline or a macro there, and the module's parameters.
 *
 * bindgen reads this file (see Kbuild); the types are the kernel crate's own.
 */
#ifndef MEMSRV_HELPERS_H
#define MEMSRV_HELPERS_H

#ifdef __BINDGEN__
/* Names are enough: the types come from the kernel crate, which made them from the real headers. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long size_t;
typedef _Bool bool;
#else
#include <linux/types.h>
#endif

struct folio;
struct ftrace_regs;
struct kvec;
struct bio_vec;
struct module;
struct page;
struct sk_buff;
struct sock;
struct socket;

#define MEMSRV_ADDR_MAX 64
#define MEMSRV_NAME_MAX 80
#define MEMSRV_WORD_MAX 16

extern char memsrv_param_server[MEMSRV_ADDR_MAX];
extern char memsrv_param_mirror[MEMSRV_ADDR_MAX];
extern char memsrv_param_region[MEMSRV_NAME_MAX];
extern char memsrv_param_client[MEMSRV_NAME_MAX];
extern char memsrv_param_disk[MEMSRV_WORD_MAX];
extern char memsrv_param_compress[MEMSRV_WORD_MAX];
extern unsigned int memsrv_param_connections;
extern unsigned int memsrv_param_inflight;
extern unsigned int memsrv_param_store_ms;
extern unsigned int memsrv_param_hold_ms;
extern unsigned int memsrv_param_silence_ms;
extern unsigned int memsrv_param_hedge_ms;
extern unsigned int memsrv_param_spin_us;
extern unsigned int memsrv_param_ahead;
extern unsigned int memsrv_param_dscp;
extern bool memsrv_param_mirror_strict;
extern bool memsrv_param_keep_clean;

/* ftrace */
unsigned long memsrv_fregs_arg(struct ftrace_regs *fregs, unsigned int n);
void memsrv_fregs_set_ip(struct ftrace_regs *fregs, unsigned long ip);

/* swap and folios */
u64 memsrv_folio_slot(struct folio *folio);
u64 memsrv_entry_slot(unsigned long entry);
unsigned int memsrv_folio_pages(struct folio *folio);
void *memsrv_folio_addr(struct folio *folio, unsigned int n);
void memsrv_folio_start_writeback(struct folio *folio);
void memsrv_folio_get(struct folio *folio);
void memsrv_folio_put(struct folio *folio);
bool memsrv_folio_trylock(struct folio *folio);
bool memsrv_folio_unread(struct folio *folio);
struct memsrv_plug_hooks {
	void *owner;
	void (*unplugged)(void *owner, bool may_sleep);
	void (*wait)(void *owner, struct folio *folio, u64 slot);
};
bool memsrv_has_plug(void);
/* Whether the task has a plug: no; yes, and held before; yes, and held from now on. */
enum memsrv_held { MEMSRV_HELD_NO, MEMSRV_HELD, MEMSRV_HELD_FIRST };
enum memsrv_held memsrv_plugged(const struct memsrv_plug_hooks *hooks, struct folio *folio);
bool memsrv_plugged_store(const struct memsrv_plug_hooks *hooks);
unsigned int memsrv_plugs(void);
void memsrv_wait_begins(void);
void memsrv_wait_ends(void);
bool memsrv_many_wait(void);
bool memsrv_may_spin(struct folio *folio);
bool memsrv_spin_on(struct folio *folio, unsigned int us);
void *memsrv_page_addr(struct page *page);
void memsrv_copy_page(void *to, const void *from);
void memsrv_count_out(unsigned int pages);
void memsrv_count_in(unsigned int pages);
unsigned long memsrv_free_swap_pages(void);
bool memsrv_current_is_swapoff(void);

/* the kernel's own read from a swap area */
int memsrv_swap_read_prepare(void);
void memsrv_swap_read(struct folio *folio);

/* checksum */
u32 memsrv_crc32c(u32 crc, const void *data, size_t len);

/* compression */
bool memsrv_lz4_there(void);
void *memsrv_lz4_new(void);
void memsrv_lz4_free(void *scratch);
unsigned int memsrv_lz4_compress(void *scratch, void *page, unsigned int most);
bool memsrv_lz4_decompress(const void *block, unsigned int len, void *page);

/* threads */
unsigned int memsrv_noreclaim_save(void);
void memsrv_noreclaim_restore(unsigned int flags);
void memsrv_wait(const int *events, unsigned int timeout_ms, bool stopping);
void memsrv_task_get(void *task);
void memsrv_task_put(void *task);
u64 memsrv_now_ns(void);
void memsrv_random(void *out, size_t len);
const char *memsrv_hostname(void);
unsigned int memsrv_cpus(void);
unsigned long memsrv_ram_pages(void);

/* hibernation and the machine's end */
struct memsrv_power_hooks {
	void *owner;
	/* An image of the memory is to be made: false refuses it. */
	bool (*freeze)(void *owner);
	void (*thaw)(void *owner);
	/* The machine restarts or is switched off. */
	void (*leave)(void *owner);
};

int memsrv_power_attach(struct memsrv_power_hooks *hooks);
void memsrv_power_detach(void);

/* sockets */
struct memsrv_sock_hooks {
	void *owner;
	/* Each runs with the socket's callback lock held for reading and bottom halves off. */
	void (*data_ready)(void *owner, struct sock *sk);
	void (*write_space)(void *owner);
	void (*broken)(void *owner);
	/* The socket's own, put back by memsrv_sock_detach(). */
	void (*saved_data_ready)(struct sock *sk);
	void (*saved_write_space)(struct sock *sk);
	void (*saved_state_change)(struct sock *sk);
};

typedef int (*memsrv_recv_t)(void *ctx, struct sk_buff *skb, unsigned int offset, size_t len);

int memsrv_sock_connect(const char *addr, u16 port, bool v6, unsigned int timeout_ms,
			struct socket **out);
void memsrv_sock_attach(struct socket *sock, struct memsrv_sock_hooks *hooks);
void memsrv_sock_detach(struct socket *sock);
int memsrv_sock_read(struct sock *sk, void *ctx, memsrv_recv_t recv);
void memsrv_sock_poll(struct socket *sock);
int memsrv_sock_send_all(struct socket *sock, struct kvec *vec, size_t len);
int memsrv_sock_send(struct socket *sock, struct kvec *vec, unsigned int n, size_t len);
int memsrv_sock_splice(struct socket *sock, struct bio_vec *vec, unsigned int n, size_t len);
int memsrv_sock_recv(struct socket *sock, void *buf, size_t len);
void memsrv_sock_release(struct socket *sock);
int memsrv_skb_copy(struct sk_buff *skb, unsigned int offset, void *to, size_t len);
bool memsrv_parse_v4(const char *text, size_t len, u8 *out);
bool memsrv_parse_v6(const char *text, size_t len, u8 *out);

#endif
