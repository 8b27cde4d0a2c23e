/*-------------------------------------------------------------------------
 *
 * mock_watch.h
 *	  The watch of the provider "mock", in test builds only.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_MOCK_WATCH_H
#define REPLICA_CTL_PROVIDER_MOCK_WATCH_H

#include "net/http.h"

extern const RctlHttpRequest *rctl_mock_watch(void *watch, const RctlHttpResponse *response);

#endif							/* REPLICA_CTL_PROVIDER_MOCK_WATCH_H */
