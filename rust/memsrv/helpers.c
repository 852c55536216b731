// SPDX-License-Identifier: GPL-2.0-only
/*
 * C for Rust: inline functions and macros of the kernel under names that bindgen can see, and the
 * socket's set-up, which is macros and bit fields throughout. No decision is taken here.
 */
#include <linux/blkdev.h>
#include <linux/bvec.h>
#include <linux/crc32c.h>
#include <linux/ftrace.h>
#include <linux/inet.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/oom.h>
#include <linux/pagemap.h>
#include <linux/random.h>
#include <linux/reboot.h>
#include <linux/sched/clock.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>
#include <linux/skbuff.h>
#include <linux/suspend.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/utsname.h>
#include <linux/vmstat.h>
#include <linux/zswap.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "helpers.h"

/* The hooked functions must have the signatures that the hooks are written for. */
static_assert(__same_type(&zswap_store, bool (*)(struct folio *)));
static_assert(__same_type(&zswap_load, int (*)(struct folio *)));
static_assert(__same_type(&zswap_invalidate, void (*)(swp_entry_t)));
static_assert(__same_type(&zswap_swapon, int (*)(int, unsigned long)));
static_assert(__same_type(&zswap_swapoff, void (*)(int)));
static_assert(__same_type(&zswap_never_enabled, bool (*)(void)));
static_assert(sizeof(swp_entry_t) == sizeof(unsigned long));
static_assert(PAGE_SIZE == 4096);
static_assert(IS_ENABLED(CONFIG_ZSWAP) && IS_ENABLED(CONFIG_DYNAMIC_FTRACE_WITH_ARGS),
	      "memsrv hooks zswap by ftrace: the kernel needs ZSWAP and DYNAMIC_FTRACE_WITH_ARGS");

unsigned long memsrv_fregs_arg(struct ftrace_regs *fregs, unsigned int n)
{
	return ftrace_regs_get_argument(fregs, n);
}

void memsrv_fregs_set_ip(struct ftrace_regs *fregs, unsigned long ip)
{
	ftrace_regs_set_instruction_pointer(fregs, ip);
}

static u64 slot_of(swp_entry_t entry)
{
	return (u64)swp_type(entry) << 48 | swp_offset(entry);
}

u64 memsrv_folio_slot(struct folio *folio)
{
	return slot_of(folio->swap);
}

u64 memsrv_entry_slot(unsigned long entry)
{
	return slot_of((swp_entry_t){ .val = entry });
}

unsigned int memsrv_folio_pages(struct folio *folio)
{
	return folio_nr_pages(folio);
}

/* x86-64 has no high memory: a page always has an address. */
void *memsrv_folio_addr(struct folio *folio, unsigned int n)
{
	return page_address(folio_page(folio, n));
}

void *memsrv_page_addr(struct page *page)
{
	return page_address(page);
}

void memsrv_copy_page(void *to, const void *from)
{
	copy_page(to, (void *)from);
}

void memsrv_folio_start_writeback(struct folio *folio)
{
	folio_start_writeback(folio);
}

void memsrv_folio_get(struct folio *folio)
{
	folio_get(folio);
}

void memsrv_folio_put(struct folio *folio)
{
	folio_put(folio);
}

bool memsrv_folio_trylock(struct folio *folio)
{
	return folio_trylock(folio);
}

/* Of a locked folio: whether it is in the swap cache and still to be read. */
bool memsrv_folio_unread(struct folio *folio)
{
	return folio_test_swapcache(folio) && !folio_test_uptodate(folio);
}

/* Whether somebody waits for what a task has that waits for its page: the processor; the address space,
 * which it would give up if it slept; its own end. */
static bool wanted(void)
{
	return need_resched() || !single_task_running() || fatal_signal_pending(current) ||
	       mmap_lock_is_contended(current->mm);
}

/* Whether a faulting task may wait for its page without sleeping, if it has to wait. */
bool memsrv_may_spin(struct folio *folio)
{
	return folio_test_locked(folio) && !(current->flags & PF_KTHREAD) && current->mm && !wanted();
}

/* Of a task's plug that we are told the end of. */
struct plug {
	struct blk_plug_cb cb;
	/* The first that was asked for, with a reference. */
	struct folio *first;
	u64 slot;
	unsigned int loads;
};

/* The most pages that a readahead asks for. Who asks for more, as madvise does, waits for none. */
#define READAHEAD 32

static atomic_t plugs = ATOMIC_INIT(0);

static void on_unplug(struct blk_plug_cb *cb, bool from_schedule)
{
	const struct memsrv_plug_hooks *hooks = cb->data;
	struct plug *plug = container_of(cb, struct plug, cb);

	hooks->unplugged(hooks->owner, !from_schedule);
	/* After a readahead the task waits for one of its pages: for the first where it reads on and on, and the others
	 * come right behind. */
	if (!from_schedule && plug->loads <= READAHEAD)
		hooks->wait(hooks->owner, plug->first, plug->slot);
	folio_put(plug->first);
	kfree(plug);
	/* Last, and ordered: who waits for it frees the hooks. */
	atomic_dec_return(&plugs);
}

/* Whether the task goes on asking. */
bool memsrv_has_plug(void)
{
	return current->plug;
}

/* Whether the task goes on asking, as in a readahead, and we are told when it is done, or is about to sleep. It asks
 * for this folio, on which it has a reference. */
enum memsrv_held memsrv_plugged(const struct memsrv_plug_hooks *hooks, struct folio *folio)
{
	struct blk_plug_cb *cb = blk_check_plugged(on_unplug, (void *)hooks, sizeof(struct plug));
	struct plug *plug = container_of(cb, struct plug, cb);

	/* No plug, or no memory. */
	if (!cb)
		return MEMSRV_HELD_NO;
	if (plug->loads++)
		return MEMSRV_HELD;
	folio_get(folio);
	plug->first = folio;
	plug->slot = memsrv_folio_slot(folio);
	atomic_inc(&plugs);
	return MEMSRV_HELD_FIRST;
}

/* How many plugs there are that we will be told the end of. */
unsigned int memsrv_plugs(void)
{
	return atomic_read_acquire(&plugs);
}

/* Waits until the folio is unlocked, but not for longer than that, nor when the processor is wanted. The
 * page comes by an interrupt, here or on another processor. */
#define LOOKS 128

bool memsrv_spin_on(struct folio *folio, unsigned int us)
{
	u64 end = local_clock() + us * NSEC_PER_USEC;
	unsigned int looks;

	for (;;) {
		/* Mostly only looked at: a virtual machine's host may take each cpu_relax() for an occasion to do
		 * something else first. */
		for (looks = 0; looks < LOOKS; looks++) {
			if (!folio_test_locked(folio))
				return true;
			barrier();
		}
		if (wanted() || local_clock() > end)
			return false;
		cpu_relax();
	}
}

void memsrv_count_out(unsigned int pages)
{
	count_vm_events(ZSWPOUT, pages);
}

void memsrv_count_in(unsigned int pages)
{
	count_vm_events(ZSWPIN, pages);
}

unsigned long memsrv_free_swap_pages(void)
{
	return max(get_nr_swap_pages(), 0L);
}

/* swapoff(2) marks its task so; so does KSM while it unmerges, for which waiting is right too. */
bool memsrv_current_is_swapoff(void)
{
	return oom_task_origin(current);
}

u32 memsrv_crc32c(u32 crc, const void *data, size_t len)
{
	return crc32c(crc, data, len);
}

unsigned int memsrv_noreclaim_save(void)
{
	return memalloc_noreclaim_save();
}

void memsrv_noreclaim_restore(unsigned int flags)
{
	memalloc_noreclaim_restore(flags);
}

/* Sleeps until *events is not zero, the thread is to stop, or the time is over (0: no limit). A thread
 * that is stopping already does not look at that again. */
void memsrv_wait(const int *events, unsigned int timeout_ms, bool stopping)
{
	long timeout = timeout_ms ? msecs_to_jiffies(timeout_ms) : MAX_SCHEDULE_TIMEOUT;

	set_current_state(TASK_IDLE);
	if (!READ_ONCE(*events) && (stopping || !kthread_should_stop()))
		schedule_timeout(timeout);
	__set_current_state(TASK_RUNNING);
}

void memsrv_task_get(void *task)
{
	get_task_struct(task);
}

void memsrv_task_put(void *task)
{
	put_task_struct(task);
}

u64 memsrv_now_us(void)
{
	return ktime_to_us(ktime_get());
}

void memsrv_random(void *out, size_t len)
{
	get_random_bytes(out, len);
}

const char *memsrv_hostname(void)
{
	return init_uts_ns.name.nodename;
}

unsigned int memsrv_cpus(void)
{
	return num_online_cpus();
}

unsigned long memsrv_ram_pages(void)
{
	return totalram_pages();
}

bool memsrv_parse_v4(const char *text, size_t len, u8 *out)
{
	const char *end;

	return in4_pton(text, len, out, -1, &end) && end == text + len;
}

bool memsrv_parse_v6(const char *text, size_t len, u8 *out)
{
	const char *end;

	return in6_pton(text, len, out, -1, &end) && end == text + len;
}

static struct memsrv_power_hooks *power_hooks;

static int on_pm(struct notifier_block *nb, unsigned long event, void *data)
{
	switch (event) {
	case PM_HIBERNATION_PREPARE:
		return notifier_from_errno(power_hooks->freeze(power_hooks->owner) ? 0 : -EBUSY);
	case PM_POST_HIBERNATION:
		power_hooks->thaw(power_hooks->owner);
		break;
	}
	return NOTIFY_DONE;
}

static int on_reboot(struct notifier_block *nb, unsigned long event, void *data)
{
	power_hooks->leave(power_hooks->owner);
	return NOTIFY_DONE;
}

static struct notifier_block pm_block = { .notifier_call = on_pm };
static struct notifier_block reboot_block = { .notifier_call = on_reboot };

/* One at a time: there is one module. */
int memsrv_power_attach(struct memsrv_power_hooks *hooks)
{
	int err;

	power_hooks = hooks;
	err = register_pm_notifier(&pm_block);
	if (err)
		return err;
	err = register_reboot_notifier(&reboot_block);
	if (err)
		unregister_pm_notifier(&pm_block);
	return err;
}

/* Afterwards none of the hooks runs, and none will. */
void memsrv_power_detach(void)
{
	unregister_reboot_notifier(&reboot_block);
	unregister_pm_notifier(&pm_block);
}

/* Our sockets' locks are a class of their own: a kernel socket elsewhere that allocates with
 * GFP_KERNEL under its lock must not look as if ours did (nvme/tcp does the same). */
static struct lock_class_key sock_slock_key;
static struct lock_class_key sock_lock_key;

/* TCP_NOTSENT_LOWAT: bytes that may wait in the socket to be sent. Over a narrow link a load waits for the stores that
 * are before it there; those that are still ours it overtakes. */
#define UNSENT_MOST (128 * 1024)

/* What is sent carries this in its IP header (RFC 2474); the two bits below are ECN's. */
static void sock_mark(struct sock *sk)
{
	u8 field = memsrv_param_dscp << 2;

	if (sk->sk_family == AF_INET6)
		inet6_sk(sk)->tclass = field;
	else
		ip_sock_set_tos(sk, field);
}

#ifdef CONFIG_LOCKDEP
/* The classes that locks of the kernel's own sockets have: [IPv6?]. The kernel's keys, which stay. */
static struct sock_classes {
	struct lock_class_key *slock, *lock;
	const char *slock_name, *lock_name;
} sock_classes[2];
#endif

static void sock_own_classes(struct sock *sk)
{
#ifdef CONFIG_LOCKDEP
	sock_classes[sk->sk_family == AF_INET6] = (struct sock_classes){
		.slock = sk->sk_lock.slock.dep_map.key,
		.slock_name = sk->sk_lock.slock.dep_map.name,
		.lock = sk->sk_lock.dep_map.key,
		.lock_name = sk->sk_lock.dep_map.name,
	};
#endif
	sock_lock_init_class_and_name(sk, "slock-memsrv", &sock_slock_key, "sk_lock-memsrv",
				      &sock_lock_key);
	/* With lockdep this has taken a reference on us, for the keys' sake: rmmod would never work. sock_close()
	 * gives them up instead. */
	sk_owner_put(sk);
	sk_owner_clear(sk);
}

/* TCP's deferred work (tcp_tsq_workfn) may still have the sock, and lock it, when it was released and the module, with
 * its keys, is gone. */
static void sock_close(struct socket *sock)
{
#ifdef CONFIG_LOCKDEP
	struct sock *sk = sock->sk;
	const struct sock_classes *classes = &sock_classes[sk->sk_family == AF_INET6];

	sock_hold(sk);
	sock_release(sock);
	spin_lock_bh(&sk->sk_lock.slock);
	lockdep_set_class_and_name(&sk->sk_lock.slock, classes->slock, classes->slock_name);
	lockdep_init_map(&sk->sk_lock.dep_map, classes->lock_name, classes->lock, 0);
	spin_unlock_bh(&sk->sk_lock.slock);
	sock_put(sk);
#else
	sock_release(sock);
#endif
}

static void sock_prepare(struct socket *sock, unsigned int timeout_ms)
{
	struct sock *sk = sock->sk;

	sock_own_classes(sk);
	/* Before sk_set_memalloc(), which adds __GFP_MEMALLOC to it. */
	sk->sk_allocation = GFP_NOIO;
	/* A task inside its own socket may come here through reclaim: its page fragment is not ours. */
	sk->sk_use_task_frag = false;
	sk_set_memalloc(sk);
	sk->sk_sndtimeo = msecs_to_jiffies(timeout_ms);
	sk->sk_rcvtimeo = msecs_to_jiffies(timeout_ms);
	sock_no_linger(sk);
	sock_mark(sk); /* sets a priority, too */
	sock_set_priority(sk, 6); /* TC_PRIO_INTERACTIVE: a program waits for each of these bytes */
	tcp_sock_set_nodelay(sk);
	WRITE_ONCE(tcp_sk(sk)->notsent_lowat, UNSENT_MOST);
	tcp_sock_set_user_timeout(sk, timeout_ms * 3);
	sock_set_keepalive(sk);
	tcp_sock_set_keepidle(sk, 5);
	tcp_sock_set_keepintvl(sk, 1);
	tcp_sock_set_keepcnt(sk, 5);
}

int memsrv_sock_connect(const char *addr, u16 port, bool v6, unsigned int timeout_ms,
			struct socket **out)
{
	struct sockaddr_storage to = {};
	struct socket *sock;
	int err, len;

	if (v6) {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&to;

		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		memcpy(&in6->sin6_addr, addr, sizeof(in6->sin6_addr));
		len = sizeof(*in6);
	} else {
		struct sockaddr_in *in4 = (struct sockaddr_in *)&to;

		in4->sin_family = AF_INET;
		in4->sin_port = htons(port);
		memcpy(&in4->sin_addr, addr, sizeof(in4->sin_addr));
		len = sizeof(*in4);
	}
	err = sock_create_kern(&init_net, to.ss_family, SOCK_STREAM, IPPROTO_TCP, &sock);
	if (err)
		return err;
	sock_prepare(sock, timeout_ms);
	err = kernel_connect(sock, (struct sockaddr_unsized *)&to, len, 0);
	if (err) {
		sock_close(sock);
		return err == -EINPROGRESS ? -ETIMEDOUT : err;
	}
	*out = sock;
	return 0;
}

static void on_data_ready(struct sock *sk)
{
	struct memsrv_sock_hooks *hooks;

	read_lock_bh(&sk->sk_callback_lock);
	hooks = sk->sk_user_data;
	if (hooks)
		hooks->data_ready(hooks->owner, sk);
	read_unlock_bh(&sk->sk_callback_lock);
}

static void on_write_space(struct sock *sk)
{
	struct memsrv_sock_hooks *hooks;

	read_lock_bh(&sk->sk_callback_lock);
	hooks = sk->sk_user_data;
	/* As sk_stream_write_space(): not for a little. Until then each acknowledgement looks again. */
	if (hooks && __sk_stream_is_writeable(sk, 1)) {
		clear_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
		hooks->write_space(hooks->owner);
	}
	read_unlock_bh(&sk->sk_callback_lock);
}

static void on_state_change(struct sock *sk)
{
	struct memsrv_sock_hooks *hooks;

	read_lock_bh(&sk->sk_callback_lock);
	hooks = sk->sk_user_data;
	if (hooks && sk->sk_state != TCP_ESTABLISHED)
		hooks->broken(hooks->owner);
	read_unlock_bh(&sk->sk_callback_lock);
}

void memsrv_sock_attach(struct socket *sock, struct memsrv_sock_hooks *hooks)
{
	struct sock *sk = sock->sk;

	write_lock_bh(&sk->sk_callback_lock);
	hooks->saved_data_ready = sk->sk_data_ready;
	hooks->saved_write_space = sk->sk_write_space;
	hooks->saved_state_change = sk->sk_state_change;
	sk->sk_user_data = hooks;
	sk->sk_data_ready = on_data_ready;
	sk->sk_write_space = on_write_space;
	sk->sk_state_change = on_state_change;
	write_unlock_bh(&sk->sk_callback_lock);
}

/* Afterwards no callback runs, and none will. */
void memsrv_sock_detach(struct socket *sock)
{
	struct sock *sk = sock->sk;
	struct memsrv_sock_hooks *hooks;

	write_lock_bh(&sk->sk_callback_lock);
	hooks = sk->sk_user_data;
	sk->sk_user_data = NULL;
	if (hooks) {
		sk->sk_data_ready = hooks->saved_data_ready;
		sk->sk_write_space = hooks->saved_write_space;
		sk->sk_state_change = hooks->saved_state_change;
	}
	write_unlock_bh(&sk->sk_callback_lock);
}

struct recv_call {
	void *ctx;
	memsrv_recv_t recv;
};

static int recv_actor(read_descriptor_t *desc, struct sk_buff *skb, unsigned int offset, size_t len)
{
	struct recv_call *call = desc->arg.data;

	return call->recv(call->ctx, skb, offset, len);
}

/* The socket is locked by the caller. */
int memsrv_sock_read(struct sock *sk, void *ctx, memsrv_recv_t recv)
{
	struct recv_call call = { .ctx = ctx, .recv = recv };
	read_descriptor_t desc = { .arg.data = &call, .count = 1 };

	return tcp_read_sock(sk, &desc, recv_actor);
}

/* Looks at what came before the callbacks stood, and at a state that changed before. */
void memsrv_sock_poll(struct socket *sock)
{
	struct sock *sk = sock->sk;

	lock_sock(sk);
	sk->sk_data_ready(sk);
	sk->sk_state_change(sk);
	release_sock(sk);
}

int memsrv_sock_send_all(struct socket *sock, struct kvec *vec, size_t len)
{
	struct msghdr msg = { .msg_flags = MSG_NOSIGNAL };

	return kernel_sendmsg(sock, &msg, vec, 1, len);
}

/* A faulting task sends, too: with the socket locked it must not enter reclaim. */
static int send_now(struct socket *sock, struct msghdr *msg)
{
	unsigned int flags = memalloc_noreclaim_save();
	int sent;

	msg->msg_flags |= MSG_NOSIGNAL | MSG_DONTWAIT;
	sent = sock_sendmsg(sock, msg);
	memalloc_noreclaim_restore(flags);
	return sent;
}

int memsrv_sock_send(struct socket *sock, struct kvec *vec, unsigned int n, size_t len)
{
	struct msghdr msg = {};

	iov_iter_kvec(&msg.msg_iter, ITER_SOURCE, vec, n, len);
	return send_now(sock, &msg);
}

/* The socket takes references on the pages and copies nothing. */
int memsrv_sock_splice(struct socket *sock, struct bio_vec *vec, unsigned int n, size_t len)
{
	struct msghdr msg = { .msg_flags = MSG_SPLICE_PAGES };

	iov_iter_bvec(&msg.msg_iter, ITER_SOURCE, vec, n, len);
	return send_now(sock, &msg);
}

int memsrv_sock_recv(struct socket *sock, void *buf, size_t len)
{
	struct msghdr msg = { .msg_flags = MSG_NOSIGNAL | MSG_WAITALL };
	struct kvec vec = { .iov_base = buf, .iov_len = len };

	return kernel_recvmsg(sock, &msg, &vec, 1, len, MSG_WAITALL);
}

/* It does not linger: what was not sent is dropped, and the peer gets a reset. */
void memsrv_sock_release(struct socket *sock)
{
	sock_close(sock);
}

int memsrv_skb_copy(struct sk_buff *skb, unsigned int offset, void *to, size_t len)
{
	return skb_copy_bits(skb, offset, to, len);
}
