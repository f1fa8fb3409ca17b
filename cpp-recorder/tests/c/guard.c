/* Functions whose machine code the tests look at: a tracepoint's guard, and what it may cost. */
#include "bitnet_trace.h"

extern void make_ready(void);

void guarded(const bnt_site *site);
void guarded(const bnt_site *site) {
    if (bnt_site_wants(site, 7)) make_ready();
}
