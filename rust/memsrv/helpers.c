// SPDX-License-Identifier: GPL-2.0-only
/*
 * C for Rust: inline functions and macros of the kernel under names that bindgen can see.
 * No decision is taken here.
 */
#include <linux/blkdev.h>
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
#include <linux/suspend.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/utsname.h>
#include <linux/vmstat.h>
#include <linux/zswap.h>

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

/* How many tasks wait for a page that has been asked for. It only advises. */
static atomic_t waiting = ATOMIC_INIT(0);

void memsrv_wait_begins(void)
{
	atomic_inc(&waiting);
}

void memsrv_wait_ends(void)
{
	atomic_dec(&waiting);
}

/* Whether more than half of the processors have a task that waits, where there are several: what is left may be needed
 * for making their pages come, by the network, by a server on this machine, by who carries a virtual one's packets. */
bool memsrv_many_wait(void)
{
	return atomic_read(&waiting) > max_t(int, num_online_cpus() / 2, 1);
}

/* Whether a faulting task may wait for its page without sleeping, if it has to wait. */
bool memsrv_may_spin(struct folio *folio)
{
	return folio_test_locked(folio) && !(current->flags & PF_KTHREAD) && current->mm && !wanted() &&
	       !memsrv_many_wait();
}

/* Of a task's plug that we are told the end of. */
struct plug {
	struct blk_plug_cb cb;
	bool counted;
	/* The first that was asked for, with a reference; none while the task has only stored. */
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
	if (plug->first) {
		if (!from_schedule && plug->loads <= READAHEAD)
			hooks->wait(hooks->owner, plug->first, plug->slot);
		folio_put(plug->first);
	}
	kfree(plug);
	/* Last, and ordered: who waits for it frees the hooks. */
	atomic_dec_return(&plugs);
}

/* Whether the task goes on asking. */
bool memsrv_has_plug(void)
{
	return current->plug;
}

/* The task's plug, of whose end, or of the task's being about to sleep, we are told; none without one, or memory. */
static struct plug *held_plug(const struct memsrv_plug_hooks *hooks)
{
	struct blk_plug_cb *cb = blk_check_plugged(on_unplug, (void *)hooks, sizeof(struct plug));
	struct plug *plug = container_of(cb, struct plug, cb);

	if (!cb)
		return NULL;
	if (!plug->counted) {
		plug->counted = true;
		atomic_inc(&plugs);
	}
	return plug;
}

/* Whether the task goes on asking, as in a readahead. It asks for this folio, on which it has a reference. */
enum memsrv_held memsrv_plugged(const struct memsrv_plug_hooks *hooks, struct folio *folio)
{
	struct plug *plug = held_plug(hooks);

	if (!plug)
		return MEMSRV_HELD_NO;
	if (plug->loads++)
		return MEMSRV_HELD;
	folio_get(folio);
	plug->first = folio;
	plug->slot = memsrv_folio_slot(folio);
	return MEMSRV_HELD_FIRST;
}

/* Whether the task goes on storing, as reclaim does. */
bool memsrv_plugged_store(const struct memsrv_plug_hooks *hooks)
{
	return held_plug(hooks);
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
		if (wanted() || memsrv_many_wait() || local_clock() > end)
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

u64 memsrv_now_ns(void)
{
	return ktime_get_ns();
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
