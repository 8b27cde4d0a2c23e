/*-------------------------------------------------------------------------
 *
 * providers.h
 *	  The providers that there are, for the registry in provider.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_PROVIDERS_H
#define REPLICA_CTL_PROVIDER_PROVIDERS_H

#include "provider/provider.h"

extern const RctlProvider rctl_provider_aws;	/* aws.c */
extern const RctlProvider rctl_provider_cnpg;	/* cnpg.c */
extern const RctlProvider rctl_provider_local;	/* local.c */
extern const RctlProvider rctl_provider_ssh;	/* ssh.c */
extern const RctlProvider rctl_provider_aiven;	/* aiven.c */
extern const RctlProvider rctl_provider_patroni;	/* patroni.c */
#ifdef RCTL_TEST
extern const RctlProvider rctl_provider_mock;
extern const RctlProvider rctl_provider_mock_managed;	/* mock.c, in test
														 * builds only */
#endif

#endif							/* REPLICA_CTL_PROVIDER_PROVIDERS_H */
