# The commands behind the tables of docs/results: `make results-NAME` writes tables/NAME.md and its figures, which the pages include.
# What was measured is kept in runs/results, from which a stopped measurement goes on; cells of another commit or machine are
# refused there. `results`: what takes minutes, one after the other, since they are timed; its nodes are network namespaces,
# which need root. `results-caught`: what attacks do and defenses catch, `results-papers`: the papers' tables; hours of one
# core, with MNIST, Fashion-MNIST and CIFAR-10 under $RAYSIM_DATA.

RESULTS := defenses defenses-new kernels attacks rounds rounds-uneven population growth scaling scaling-small nodes nodes-sizes nodes-live pairs maps similarity mmd tasks
CAUGHT := coverage layercam layercam-cifar10 layercam-start gae gae-images backdoors detection-maps detection
PAPERS := pdrr gcama fedgrad layercam_ae flare
OF_PAPERS := pdrr-figures layercam_ae-figures layercam_ae-votes layercam_ae-gae flare-figures flare-krum flare-samples flare-colluders
OF_PAPERS += flare-pretrained flare-seconds
OF_PAPERS += fedgrad-section6 fedgrad-seconds coverage-shares detection-new
one_by_one = @for name in $(1); do $(MAKE) --no-print-directory results-$$name || exit 1; done
results: $(READY)
	$(call one_by_one,$(RESULTS))
	$(BIN)/python docs/headlines.py
results-caught: $(READY) ; $(call one_by_one,$(CAUGHT))
results-papers: $(READY) ; $(call one_by_one,$(PAPERS))
results-of-papers: $(READY) ; $(call one_by_one,$(OF_PAPERS))

measured = --out runs/results/$(1) --resume --page docs/results/tables/$(1).md > /dev/null
bench = $(BIN)/raysim bench
of_the_papers := --defense layercam_ae,gradcam_ae,fedgrad,flare,pdrr,krum --repeats 3
small_cnn := --model digits_cnn --image 1x8x8 --classes 10
results-defenses: ; $(bench) defenses --peers --repeats 5 $(call measured,defenses)
results-defenses-new: ; $(bench) defenses krum $(subst $(,), ,$(new_rules)) $(small_cnn) --clients 20 --repeats 5 $(call measured,defenses-new)
results-kernels: ; $(bench) kernels --peers --repeats 5 --image 3x32x32,3x64x64,3x224x224 $(call measured,kernels)
results-attacks: ; $(bench) attacks --repeats 2 $(call measured,attacks)
results-rounds: ; $(bench) rounds digits dirichlet lognormal $(if $(RAYSIM_DATA),cifar10) $(call measured,rounds)
results-rounds-uneven: ; $(bench) rounds digits dirichlet lognormal $(if $(RAYSIM_DATA),cifar10) --uneven $(call measured,rounds-uneven)
results-population: ; $(bench) population --clients 10000,100000,1000000,10000000 --cohort 1000 $(call measured,population)
# Writes 20 GB below the folder of temporary files, twice, one after the other.
results-population-shards: ; $(bench) population --data images,tokens --cohort 1000 --rounds 6 $(call measured,population-shards)
results-growth: ; $(bench) growth digits --clients 25,50,100 --nodes 1,2 --repeats 3 $(call measured,growth)
results-scaling: ; $(bench) scaling $(of_the_papers) --clients 24,48,96 $(call measured,scaling)
results-scaling-small: ; $(bench) scaling $(of_the_papers) --clients 24,100,200,500,1000,2000 $(small_cnn) $(call measured,scaling-small)
# K = 200 lies in the store, K = 400 (9.8 GiB) does not; a method of each kind.
results-scaling-spilled: ; $(bench) scaling --defense layercam_ae,norm_clip,krum --clients 200,400 --object-store 6.8 --repeats 1 $(call measured,scaling-spilled)
results-nodes: ; $(bench) nodes --attack alie,ipm --kind namespaces --bandwidth 1gbit $(call measured,nodes)
results-nodes-sizes: ; $(bench) nodes --clients 24,48,96 --defense layercam_ae,gradcam_ae,flare,fedavg,norm_clip,krum,median $(call measured,nodes-sizes)
results-nodes-live: ; $(bench) growth leaf --defense krum,pdrr --nodes 1,2 --cpus-per-node 1 --kind namespaces --bandwidth 1gbit --repeats 3 $(call measured,nodes-live)
results-pairs: ; $(bench) pairs $(call measured,pairs)
# In one process, so that its peak of memory is all that is used: half an hour and more of one core.
results-pairs-large: ; $(bench) pairs --backend inprocess --clients 20000 --repeats 1 $(call measured,pairs-large)
results-maps: ; $(bench) maps --clients 24,48,72 --repeats 1 $(call measured,maps)
results-coverage: ; $(bench) coverage $(call measured,coverage)
results-similarity: ; $(bench) similarity $(call measured,similarity)
results-mmd: ; $(bench) mmd --clients 10,50,100,200,500,1000 --samples 5,10,20,50 $(call measured,mmd)
results-tasks: ; $(bench) tasks --cpus-per-node 1 --object-store 0.5 $(call measured,tasks)

, := ,
sweep = $(BIN)/raysim sweep
alone := --backend inprocess --workers 1
nobody := --point 'attack=none population.malicious=0'
noise := $(nobody) --point 'attack=noise population.malicious=3'
cifar10 := data.name=cifar10 data.limit=10000 model.name=flare_cifar training.batch_size=32 rounds=10
images := data.name=mnist,fashion_mnist data.limit=4800 training.batch_size=32 rounds=12
ascents := $(nobody) $(foreach few,3 9,$(foreach attack,gae gae$(,)direction=loss,--point 'attack=$(attack) population.malicious=$(few)'))
ascents += --point 'attack=gae$(,)bound_factor=4 population.malicious=3'
semantic := inputs=semantic,source=inverted,boosting=end,samples=100,benign_steps=2,epochs=4
results-layercam: ; $(sweep) quickstart $(noise) defense.hidden=4,128 defense.normalise=minmax,none --seeds 0,1,2 --metric recall $(alone) $(call measured,layercam)
results-layercam-cifar10: ; $(sweep) quickstart $(cifar10) $(noise) defense.hidden=4,128 --metric recall $(alone) $(call measured,layercam-cifar10)
results-layercam-start: ; $(sweep) quickstart attack.schedule.start=0,3,4,5,6 --metric recall $(alone) $(call measured,layercam-start)
results-gae: ; $(sweep) quickstart defense=fedavg $(ascents) --seeds 0,1,2 $(alone) $(call measured,gae)
results-gae-images: ; $(sweep) quickstart $(images) defense=fedavg $(ascents) --seeds 0,1,2 $(alone) $(call measured,gae-images)
results-backdoors: ; $(sweep) backdoors \
	--point 'attack=none population.malicious=0' \
	--point 'attack=trigger,poisoned_data_rate=0.2 population.malicious=4' \
	--point 'attack=constrain_and_scale,poisoned_data_rate=0.3,alpha=0.9,scale=5 population.malicious=1' \
	--point 'attack=dba,poisoned_data_rate=0.3,scale=2.5 population.malicious=4' \
	--point 'attack=edge_case,source_class=0,target=9 population.malicious=3' \
	--point 'attack=edge_case_pgd,source_class=0,target=9 population.malicious=3' \
	--point 'attack=edge_case_pgd_replacement,source_class=0,target=9 population.malicious=1' \
	--point 'attack=krum_backdoor,boost=7,$(semantic) population.malicious=1' \
	--point 'attack=coomed_backdoor,boost=2,$(semantic) population.malicious=3' \
	--point 'attack=flare_adaptive,boost=5,$(semantic) population.malicious=1' \
	--seeds 0,1,2 --metric attack_success_rate $(alone) $(call measured,backdoors)
map_rules := $(foreach rule,gradcam_ae$(,)hidden=4 gradcam_ae$(,)hidden=128 layercam_ae$(,)hidden=4 layercam_ae$(,)hidden=128 gradcam_krum layercam_krum,--defense $(rule) --defense $(rule)$(,)normalise=none)
results-detection-maps: ; $(bench) detection --seeds 0,1,2 --workers 1 $(map_rules) $(call measured,detection-maps)
results-detection: ; $(bench) detection --workers 1 $(call measured,detection)
$(addprefix results-,$(PAPERS)): results-%: ; $(BIN)/raysim reproduce $* --scale small $(call measured,$*)

# A paper at full scale, as many runs (CELLS=1) as there are hours for; what is finished is kept, and the table says what is not.
# OF='--table 3 --match dba' chooses among its cells.
$(PAPERS:%=results-%-paper): results-%-paper: ; $(BIN)/raysim reproduce $* --scale paper --at-most $(or $(CELLS),1) $(OF) $(call measured,$*-paper)

tables = $(BIN)/raysim reproduce $(firstword $(subst -, ,$(1))) --scale small --table $(2) $(call measured,$(1))
small = $(BIN)/raysim sweep $(2) --scale small $(alone) --seeds 0,1,2 $(call measured,$(1))
voting := $(foreach pair,1-1 2-1 2-2 3-1 3-2 3-3,--point 'defense.interval=$(word 1,$(subst -, ,$(pair))) defense.votes=$(word 2,$(subst -, ,$(pair)))')
hidden := attack.boost=1 attack.epochs=2
stealth := --point attack.boost=5 --point attack.boost=1 --point '$(hidden)' --point '$(hidden) attack.benign_steps=1000'
stealth += --point '$(hidden) attack.rho=1' --point '$(hidden) attack.rho=1 attack.estimate=others'
trusts := defense.trust=votes,average
new_rules := centered_clipping,dnc,signguard,alignins,freqfed,backdoor_indicator,mda,smea
results-pdrr-figures: ; $(call tables,pdrr-figures,fig4$(,)fig5$(,)fig6$(,)fig7$(,)fig11)
results-layercam_ae-figures: ; $(call tables,layercam_ae-figures,fig7$(,)fig11$(,)fig14 --seeds 0)
results-layercam_ae-votes: ; $(call small,layercam_ae-votes,layercam_ae/table5-regnet-cifar100-layercam_ae $(voting) --metric recall)
# Into the folder of results-layercam_ae, which has these tables, too.
of_gae := table2_gae,table3_gae,table3_gae_raw,table4_gae,table4_gae_code
results-layercam_ae-gae: ; $(BIN)/raysim reproduce layercam_ae --scale small --table $(of_gae) $(subst results/layercam_ae-gae ,results/layercam_ae ,$(call measured,layercam_ae-gae))
results-flare-figures: ; $(call tables,flare-figures,fig1$(,)fig4$(,)fig6$(,)fig10$(,)fig11 --seeds 0)
results-flare-krum: ; $(call small,flare-krum,flare/table3-krum_backdoor-fmnist-krum $(stealth) --metric recall)
results-flare-samples: ; $(call small,flare-samples,flare/table3-coomed_backdoor-fmnist-flare server_data.samples=20 defense.samples=3$(,)5$(,)7$(,)10$(,)20 $(trusts) --metric attack_success_rate)
results-flare-colluders: ; $(call small,flare-colluders,flare/table4-fang_krum-fmnist-flare $(trusts) --metric recall)
results-flare-pretrained: ; $(BIN)/raysim reproduce flare defense.pretrain_epochs=5 --scale small --match=-flare $(call measured,flare-pretrained)
results-flare-seconds: ; $(call tables,flare-seconds,seconds)
results-fedgrad-section6: ; $(call tables,fedgrad-section6,section6)
results-fedgrad-seconds: ; $(call tables,fedgrad-seconds,fig9)
results-coverage-shares: ; $(bench) coverage --population 50,100,150,200,250,300,350 --cohort 20%,40%,60%,80%,100% --trials 100 $(call measured,coverage-shares)
results-detection-new: ; $(bench) detection --workers 1 --defense $(new_rules) $(call measured,detection-new)
