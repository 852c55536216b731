// SPDX-License-Identifier: GPL-2.0-only
/*
 * C for Rust: sockets that work under memory pressure; their set-up is macros and bit fields throughout. No decision
 * is taken here.
 */
#include <linux/bvec.h>
#include <linux/sched/mm.h>
#include <linux/skbuff.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "helpers.h"

/* Our sockets' locks are a class of their own: a kernel socket elsewhere that allocates with
 * GFP_KERNEL under its lock must not look as if ours did (nvme/tcp does the same). */
static struct lock_class_key sock_slock_key;
static struct lock_class_key sock_lock_key;

/* TCP_NOTSENT_LOWAT: bytes that may wait in the socket to be sent. Over a narrow link a load waits for the stores that
 * are before it there; those that are still ours it overtakes. */
#define UNSENT_MOST (32 * 1024)

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
	/* With lockdep this has taken a reference on us, for the keys' sake: rmmod would never work.
	 * memsrv_sock_release() gives them up instead. */
	sk_owner_put(sk);
	sk_owner_clear(sk);
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
		memsrv_sock_release(sock);
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

/*
 * It does not linger: what was not sent is dropped, and the peer gets a reset. TCP's deferred work (tcp_tsq_workfn) may
 * still have the sock, and lock it, when the module, with its keys, is gone.
 */
void memsrv_sock_release(struct socket *sock)
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

int memsrv_skb_copy(struct sk_buff *skb, unsigned int offset, void *to, size_t len)
{
	return skb_copy_bits(skb, offset, to, len);
}
